"""The learnable side network (FPT+, Sec. III-B): a small ViT on a low-resolution image.

Its layers read prompts fused with the tokens of the frozen large pre-trained model (LPM).
"""

from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fptplus.errors import InvalidInput

from .layer_kind import LayerKind, check_layer_kind
from .lean.side_layer import side_layer


class SideNetwork(nn.Module):
    """A ViT of width D/k. Each layer reads, and then drops, the fused prompts of one tapped LPM layer.

    Args:
        dim: the width, D/k.
        num_heads: number of heads, the same as the LPM's.
        num_layers: L_S, the number of layers.
        res, patch_size: input and patch height and width in pixels.
        num_classes: number of outputs of the linear head on the class token.
        layer_kind: plain for timm's blocks, lean for layers that keep less for the backward pass.
        fused_attention: whether self-attention computes no score matrices; lean layers never do.
        layer_norm_eps: epsilon of every LayerNorm (official code: 1e-12).

    Raises:
        InvalidInput: if lean layers are asked for explicit attention.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_layers: int,
        res: int,
        patch_size: int,
        num_classes: int,
        *,
        layer_kind: LayerKind = "lean",
        fused_attention: bool = True,
        layer_norm_eps: float = 1e-12,
    ) -> None:
        super().__init__()
        check_layer_kind(layer_kind, fused_attention=fused_attention)
        norm_layer = partial(nn.LayerNorm, eps=layer_norm_eps)
        self.res, self.layer_kind = res, layer_kind
        self.patch_embed = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, (res // patch_size) ** 2 + 1, dim) * 0.02)
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, qkv_bias=True, norm_layer=norm_layer) for _ in range(num_layers)
        )
        self.norm = norm_layer(dim)
        self.head = nn.Linear(dim, num_classes)
        for block in self.blocks:
            block.attn.fused_attn = fused_attention
        self.apply(_init_linear)

    def embed(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, res, res) into tokens (B, T, dim), class token first.

        Raises:
            InvalidInput: if the images are not of this network's resolution.
        """
        if images.shape[-2:] != (self.res, self.res):
            raise InvalidInput(
                f"side images must be {self.res}x{self.res} pixels, got {tuple(images.shape[-2:])}; resize them first."
            )
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.pos_embed

    def layer(self, index: int, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Apply one layer to tokens (B, T, dim) with fused prompts (B, P, dim) appended, and drop them afterwards.

        Lean layers do not compute what would be dropped; the last one computes only the class token (B, 1, dim).
        """
        block = self.blocks[index]
        if self.layer_kind == "plain":
            return block(torch.cat([tokens, prompts], dim=1))[:, : tokens.shape[1]]
        is_last = index == len(self.blocks) - 1
        kept = 1 if is_last else int(tokens.shape[1])  # a tracer gives sizes that are not integers
        return side_layer(block, tokens, prompts, kept)

    def classify(self, tokens: Tensor) -> Tensor:
        """Return logits (B, classes) from the class token."""
        return self.head(self.norm(tokens)[:, 0])


def _init_linear(module: nn.Module) -> None:
    """Initialise linear layers as ViT does: weights from a truncated N(0, 0.02²), biases at 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
