"""Tap a frozen timm ViT: the keys and values of its important tokens at chosen blocks (FPT+, Sec. III-B, III-E).

The frozen pass of the large pre-trained model (LPM) has no gradients, so it always runs in the cheapest way: with fused
attention whatever the methods around it use, the residual stream updated in place, and the MLPs applied to a few tokens
at a time. The numbers are the same.
"""

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from .attention import attention_with_log_sum_exp
from .features import Features
from .selection import num_important_tokens, select_important_tokens

TOKENS_PER_MLP_PASS = 2048
"""Tokens per MLP call; it bounds the hidden activations (48 MiB for ViT-B in fp32) at any resolution."""


class FrozenBackbone(nn.Module):
    """A frozen LPM that returns what the fusion modules read, instead of logits.

    Args:
        vit: the LPM. Its parameters get no gradient, it stays in evaluation mode, and its attention becomes fused.
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
        """n, the number of important tokens per block and head."""
        return num_important_tokens(self.vit.patch_embed.num_patches + self.vit.num_prefix_tokens, self.token_ratio)

    def train(self, mode: bool = True) -> "FrozenBackbone":
        """Stay in evaluation mode whatever the model around it does: features must not change between epochs."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """Run the LPM up to the attention of its last tapped block (Eq. 4).

        Args:
            images: (B, 3, H, W) at the LPM's resolution.

        Returns:
            Keys and values, each (layers, B, heads, n, head_dim).
        """
        vit, keys, values = self.vit, [], []
        x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        for index, block in enumerate(vit.blocks):
            if index in self.tapped_layers:
                attended, important = self._attend_and_select(block.attn, block.norm1(x))
                keys.append(important[0])
                values.append(important[1])
                if index == self.tapped_layers[-1]:
                    break
            else:
                attended = block.attn(block.norm1(x))
            x += block.ls1(attended)
            del attended
            _add_mlp(block, x)
        return Features(torch.stack(keys), torch.stack(values))

    def _attend_and_select(self, attention: Attention, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the output of timm's attention layer for tokens (B, N, D), and the important keys and values."""
        queries, keys, values = split_qkv(attention, attention.qkv(tokens))
        attended, important = self._attend(queries, keys, values)
        attended = attention.norm(attended.transpose(1, 2).flatten(2))
        if (gate := getattr(attention, "gate", None)) is not None:  # older releases of timm have no gate
            attended = attended * gate(tokens).sigmoid()
        return attention.proj_drop(attention.proj(attended)), important

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the attention's output (B, heads, N, head_dim), and the important keys and values."""
        queries, keys = queries.to(values.dtype), keys.to(values.dtype)  # as autocast does to normalised ones
        attended, log_sum_exp = attention_with_log_sum_exp(queries, keys, values)
        return attended, select_important_tokens(queries, keys, values, self.token_ratio, log_sum_exp)


def _add_mlp(block: Block, x: Tensor) -> None:
    """Apply the second half of a block to tokens (B, N, D) in place: x + MLP(LayerNorm(x))."""
    for tokens in x.flatten(0, 1).split(TOKENS_PER_MLP_PASS):
        tokens += block.ls2(block.mlp(block.norm2(tokens)))


def split_qkv(attention: Attention, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split a projection (B, N, 3·D) into queries, keys and values as the layer uses them: (B, heads, N, head_dim)."""
    batch, tokens, _ = qkv.shape
    queries, keys, values = qkv.reshape(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    return attention.q_norm(queries), attention.k_norm(keys), values
