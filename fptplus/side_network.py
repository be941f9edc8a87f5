"""The learnable side network (FPT+, Sec. III-B): a small ViT on a low-resolution image."""

from functools import partial

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from .errors import InvalidInput
from .feed_forward import feed_forward
from .linear import linear
from .side_attention import side_attention


class SideNetwork(nn.Module):
    """A ViT of width D/k whose every layer reads, and then drops, the fused prompts of one tapped LPM layer.

    Args:
        dim: width D/k.
        num_heads: heads, as many as the LPM has.
        num_layers: L_S.
        res, patch_size: input and patch height and width in pixels.
        num_classes: outputs of the linear head on the class token.
        fused_attention: whether self-attention is one kernel.
        layer_norm_eps: of every LayerNorm (official code: 1e-12).
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
        fused_attention: bool,
        layer_norm_eps: float = 1e-12,
    ) -> None:
        super().__init__()
        norm_layer = partial(nn.LayerNorm, eps=layer_norm_eps)
        self.res, self.fused_attention = res, fused_attention
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
        """Tokens (B, T, dim) of images (B, 3, res, res), class token first.

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
        """One layer on tokens (B, T, dim) with fused prompts (B, P, dim) appended, and dropped afterwards.

        With fused attention, what would be dropped is not made, and of the last layer only the class token (B, 1, dim).
        """
        both = torch.cat([tokens, prompts], dim=1)
        if not self.fused_attention:
            return self.blocks[index](both)[:, : tokens.shape[1]]
        is_last = index == len(self.blocks) - 1
        return _block_of_first(self.blocks[index], both, 1 if is_last else tokens.shape[1])

    def classify(self, tokens: Tensor) -> Tensor:
        """Logits (B, classes) from the class token."""
        return self.head(self.norm(tokens)[:, 0])


def _block_of_first(block: Block, tokens: Tensor, kept: int) -> Tensor:
    """What a block makes of its first `kept` tokens (B, kept, dim), of which the others are only keys and values."""
    attention, mlp = block.attn, block.mlp
    qkv, proj, fc1, fc2 = attention.qkv, attention.proj, mlp.fc1, mlp.fc2
    queries_keys_values = linear(block.norm1(tokens), qkv.weight, qkv.bias).unflatten(-1, (3, attention.num_heads, -1))
    attended = side_attention(queries_keys_values, kept)
    tokens = tokens[:, :kept] + linear(attended, proj.weight, proj.bias)
    return tokens + feed_forward(block.norm2(tokens), fc1.weight, fc1.bias, fc2.weight, fc2.bias)


def _init_linear(module: nn.Module) -> None:
    """Start linear layers as ViT does: weights from a truncated N(0, 0.02²), biases at 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
