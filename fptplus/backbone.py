"""Tap a frozen timm ViT: the keys and values of its important tokens at chosen blocks (FPT+, Sec. III-B, III-E)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .selection import select_important_tokens


class FrozenBackbone(nn.Module):
    """A frozen LPM that gives, instead of logits, what the fusion modules read.

    Args:
        vit: the LPM; its parameters lose their gradient and it stays in evaluation mode.
        tapped_layers: indices of the blocks to read, lowest first.
        token_ratio: share of the tokens kept as important, per block and head.
    """

    def __init__(self, vit: VisionTransformer, tapped_layers: tuple[int, ...], token_ratio: float) -> None:
        super().__init__()
        self.vit = vit.requires_grad_(False).eval()
        self.tapped_layers = tapped_layers
        self.token_ratio = token_ratio

    def train(self, mode: bool = True) -> "FrozenBackbone":
        """Stay in evaluation mode whatever the model around it does: features must not change between epochs."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the LPM up to the attention inputs of its last tapped block.

        Args:
            images: (B, 3, H, W) at the LPM's resolution.

        Returns:
            keys and values, each (layers, B, heads, n, head_dim).
        """
        vit, features = self.vit, []
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        for index, block in enumerate(vit.blocks):
            with self._tapped(index, block.attn, features):
                if index == self.tapped_layers[-1]:
                    block.attn.qkv(block.norm1(x))
                    break
                x = block(x)
        keys, values = zip(*features, strict=True)
        return torch.stack(keys), torch.stack(values)

    @contextmanager
    def _tapped(self, index: int, attention: Attention, features: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
        """While a tapped block runs, take the important tokens from the qkv projection that it computes anyway."""
        if index not in self.tapped_layers:
            yield
            return

        def select(_module: nn.Module, _inputs: tuple, qkv: Tensor) -> None:
            features.append(select_important_tokens(*split_qkv(attention, qkv), self.token_ratio))

        hook = attention.qkv.register_forward_hook(select)
        try:
            yield
        finally:
            hook.remove()


def split_qkv(attention: Attention, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (B, heads, N, head_dim), of a projection (B, N, 3·D), as the layer uses them."""
    batch, tokens, _ = qkv.shape
    queries, keys, values = qkv.reshape(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return attention.q_norm(queries), attention.k_norm(keys), values
