"""Look into FPT and FPT+: selected tokens, what the prompts attend to (Fig. 9), what attends to them (Fig. 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from timm.layers import Attention
from torch import Tensor

from fptplus.network.features import Features
from fptplus.network.frozen_backbone import FrozenBackbone, split_qkv
from fptplus.network.model import FineGrainedPromptTuning
from fptplus.network.selection import num_important_tokens, token_importance

from .errors import InvalidInput

GREEN, BLUE = "#00C853", "#0072B2"


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """What one fusion module sees of one image through one head of the frozen large pre-trained model (LPM)."""

    selected: np.ndarray
    """Indices (n,) of the important tokens, most important first, among all N tokens, prefix tokens first."""

    attention: np.ndarray
    """Share (P, n) of each selected token in each prompt's attention; rows add up to 1."""

    grid: int
    """Number of patches along a side of the image."""

    num_prefix_tokens: int
    """Number of tokens before the patches: class token and registers."""

    def heat(self) -> np.ndarray:
        """Return the attention (grid, grid) on each patch, mean over the prompts; 0 where a patch is not selected."""
        tokens = np.zeros(self.num_prefix_tokens + self.grid**2)
        tokens[self.selected] = self.attention.mean(axis=0)
        return tokens[self.num_prefix_tokens :].reshape(self.grid, self.grid)

    def selected_patches(self) -> list[tuple[int, int]]:
        """Return (row, column) of each selected patch."""
        patches = self.selected[self.selected >= self.num_prefix_tokens] - self.num_prefix_tokens
        return [divmod(int(patch), self.grid) for patch in patches]


@torch.no_grad()
def view_tokens(
    backbone: FrozenBackbone, trained: FineGrainedPromptTuning, image: Tensor, *, layer: int, head: int
) -> TokenView:
    """Compute the selection and the prompt attention for one image.

    Args:
        backbone: the frozen LPM, in the precision to look at.
        trained: the model that was trained on its features.
        image: (1, 3, res, res), normalised.
        layer: layer of the LPM, counted from 0; it must be tapped.
        head: head of the LPM, counted from 0.

    Raises:
        InvalidInput: if the layer is not tapped or there is no such head.
    """
    attention = backbone.vit.blocks[0].attn
    if layer not in backbone.tapped_layers:
        known = f"{backbone.tapped_layers[0]} to {backbone.tapped_layers[-1]}"
        raise InvalidInput(f"layer must be one that the side network reads, {known}, got {layer}.")
    if not 0 <= head < attention.num_heads:
        raise InvalidInput(f"head must be 0 to {attention.num_heads - 1}, got {head}.")
    queries, keys = _queries_and_keys(backbone, image, layer)
    kept = num_important_tokens(keys.shape[2], backbone.token_ratio)
    selected = token_importance(queries, keys)[0, head].topk(kept).indices
    prompts = trained.fusion.queries()[backbone.tapped_layers.index(layer), head]
    scores = prompts @ keys[0, head, selected].T * prompts.shape[-1] ** -0.5
    return TokenView(
        selected=selected.cpu().numpy(),
        attention=scores.softmax(dim=-1).cpu().numpy(),
        grid=backbone.vit.patch_embed.grid_size[0],
        num_prefix_tokens=backbone.vit.num_prefix_tokens,
    )


def _queries_and_keys(backbone: FrozenBackbone, image: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Return the queries and keys of all tokens in one block, each (1, heads, N, head_dim)."""
    attention = backbone.vit.blocks[layer].attn
    seen: list[Tensor] = []
    hook = attention.qkv.register_forward_hook(lambda _module, _inputs, qkv: seen.append(qkv))
    try:
        backbone(image)
    finally:
        hook.remove()
    queries, keys, _ = split_qkv(attention, seen[0])
    return queries, keys


@torch.no_grad()
def attention_on_prompts(trained: FineGrainedPromptTuning, side_images: Tensor, features: Features) -> Tensor:
    """Return how much of their attention the side network's own tokens give to the prompts in each layer (Fig. 6).

    Args:
        trained: the model, in evaluation mode.
        side_images, features: see FineGrainedPromptTuning.forward.

    Returns:
        Shares (layers,) from 0 to 1: sum over the prompts, mean over tokens, heads and images.
    """
    shares: list[Tensor] = []
    num_prompts = trained.fusion.prompts.shape[1]

    def measure(block_attention: Attention, normed: Tensor) -> None:
        queries, keys, _ = split_qkv(block_attention, block_attention.qkv(normed))
        own = queries[:, :, :-num_prompts] * queries.shape[-1] ** -0.5
        probabilities = (own @ keys.transpose(-2, -1)).softmax(dim=-1)
        shares.append(probabilities[..., -num_prompts:].sum(dim=-1).mean())

    hooks = [
        block.norm1.register_forward_hook(
            lambda _module, _inputs, normed, attention=block.attn: measure(attention, normed)
        )
        for block in trained.side.blocks
    ]
    layer_kind, trained.side.layer_kind = trained.side.layer_kind, "plain"  # lean layers do not call their norms
    try:
        trained(side_images, features)
    finally:
        trained.side.layer_kind = layer_kind
        for hook in hooks:
            hook.remove()
    return torch.stack(shares)


def draw_tokens(path: Path, image: Image.Image, view: TokenView, title: str) -> None:
    """Draw Fig. 9 to path.png and path.svg: the image, selected tokens as boxes, prompt attention as a heat map."""
    side = 512
    pixels = np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
    patch = side / view.grid
    drawing = Figure(figsize=(10.5, 3.9), layout="constrained")
    plain, boxes, heat = drawing.subplots(1, 3)
    for axes, name in ((plain, "image"), (boxes, f"{len(view.selected)} selected tokens"), (heat, "prompt attention")):
        axes.imshow(pixels)
        axes.set_title(name, fontsize=10)
        axes.set_axis_off()
    for row, column in view.selected_patches():
        boxes.add_patch(
            Rectangle((column * patch, row * patch), patch, patch, fill=False, edgecolor=GREEN, linewidth=0.9)
        )
    shares = view.heat()
    shown = np.ma.masked_equal(shares, 0)
    colors = heat.imshow(100 * shown, cmap="inferno", alpha=0.75, extent=(0, side, side, 0), interpolation="nearest")
    drawing.colorbar(colors, ax=heat, label="% of the attention", shrink=0.85)
    drawing.suptitle(title, fontsize=11, parse_math=False)  # a file name may hold a $
    _save(drawing, path)


def draw_attention_on_prompts(path: Path, shares: Sequence[float], first_layer: int, title: str) -> None:
    """Draw Fig. 6 to path.png and path.svg: a bar for each layer.

    Args:
        path, title: where to write the figure, and its title.
        shares: see attention_on_prompts.
        first_layer: LPM layer, counted from 1, that the first side layer reads.
    """
    drawing = Figure(figsize=(6, 3.4), layout="constrained")
    axes = drawing.subplots()
    layers = range(first_layer, first_layer + len(shares))
    bars = axes.bar(layers, shares, color=BLUE)
    axes.set_xticks(layers)
    axes.bar_label(bars, fmt="%.3f", fontsize=8, padding=2)
    axes.set_title(title, parse_math=False)
    axes.set(xlabel="layer of the LPM", ylabel="attention on the prompts")
    axes.set_ylim(0, max(1.15 * max(shares), 0.05))
    axes.spines[["top", "right"]].set_visible(False)
    _save(drawing, path)


def _save(drawing: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "fptplus"}):
        drawing.savefig(path.with_name(f"{path.name}.png"), dpi=130)  # a name may hold a dot that begins no suffix
        drawing.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None})
