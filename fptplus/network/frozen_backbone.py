"""Tap a frozen timm ViT: the keys and values of its important tokens at chosen blocks (FPT+, Sec. III-B, III-E).

The frozen pass has no gradients, so it is free to run as is cheapest, and always does: fused attention whatever the
methods around it use, the residual stream updated in place, MLPs a few tokens at a time. The numbers are the same.
"""

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .attention import attention_with_log_sum_exp
from .selection import num_important_tokens, select_important_tokens

TOKENS_PER_MLP_PASS = 2048
"""Bounds the MLPs' hidden activations (48 MiB for ViT-B in fp32) at any resolution."""


class FrozenBackbone(nn.Module):
    """A frozen LPM that gives, instead of logits, what the fusion modules read.

    Args:
        vit: the LPM; its parameters lose their gradient, it stays in evaluation mode and its attention becomes fused.
        tapped_layers: indices of the blocks to read, lowest first.
        token_ratio: share of the tokens kept as important, per block and head.
    """

    def __init__(self, vit: VisionTransformer, tapped_layers: tuple[int, ...], token_ratio: float) -> None:
        super().__init__()
        self.vit = vit.requires_grad_(False).eval()
        self.tapped_layers = tapped_layers
        self.token_ratio = token_ratio
        for block in vit.blocks:
            block.attn.fused_attn = True

    @property
    def kept_tokens(self) -> int:
        """n, important tokens per block and head."""
        return num_important_tokens(self.vit.patch_embed.num_patches + self.vit.num_prefix_tokens, self.token_ratio)

    def train(self, mode: bool = True) -> "FrozenBackbone":
        """Stay in evaluation mode whatever the model around it does: features must not change between epochs."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the LPM up to the attention of its last tapped block.

        Args:
            images: (B, 3, H, W) at the LPM's resolution.

        Returns:
            keys and values, each (layers, B, heads, n, head_dim).
        """
        vit, tap = self.vit, _Tap(self.token_ratio)
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        for index, block in enumerate(vit.blocks):
            if index in self.tapped_layers:
                with tap:
                    attended = block.attn(block.norm1(x))
                if index == self.tapped_layers[-1]:
                    break
            else:
                attended = block.attn(block.norm1(x))
            x += block.ls1(attended)
            del attended
            _add_mlp(block, x)
        return torch.stack(tap.keys), torch.stack(tap.values)


def _add_mlp(block: Block, x: Tensor) -> None:
    """The second half of a block, in place, on tokens (B, N, D): x + MLP(LayerNorm(x))."""
    for tokens in x.flatten(0, 1).split(TOKENS_PER_MLP_PASS):
        tokens += block.ls2(block.mlp(block.norm2(tokens)))


class _Tap(TorchFunctionMode):
    """While entered, takes the important tokens from the queries, keys and values that attention is called with."""

    def __init__(self, token_ratio: float) -> None:
        super().__init__()
        self.token_ratio = token_ratio
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return self._attention(*args)
        return func(*args, **(kwargs or {}))

    def _attention(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        queries, keys = queries.to(values.dtype), keys.to(values.dtype)  # as autocast does for normalised ones
        out, log_sum_exp = attention_with_log_sum_exp(queries, keys, values)
        kept = select_important_tokens(queries, keys, values, self.token_ratio, log_sum_exp)
        self.keys.append(kept[0])
        self.values.append(kept[1])
        return out


def split_qkv(attention: Attention, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (B, heads, N, head_dim), of a projection (B, N, 3·D), as the layer uses them."""
    batch, tokens, _ = qkv.shape
    queries, keys, values = qkv.reshape(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return attention.q_norm(queries), attention.k_norm(keys), values
