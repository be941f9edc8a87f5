"""Fine-grained prompts and fusion modules (FPT+, Sec. III-D, Eq. 7-8): prompts summarise the LPM's tokens.

    FPT+   p (D) ── LayerNorm ────────── query (D) ─┐
                                keys, values (LPM) ─┴─ CA ─ + p ─ out_proj ─ fused prompts (D/k)

    FPT    p (D/k) ── prompt_proj ────── query (D) ─┐
                                keys, values (LPM) ─┴─ CA ─ out_proj ─ + p ─ fused prompts (D/k)

Eq. 7 reads f_out(CA) + p; p has the LPM's width D and f_out(CA) the side network's D/k, so FPT+ adds p before the
projection, as the official code does. LayerNorm, prompt_proj and out_proj are shared by all layers. The queries do not
depend on the image and are computed once a step.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROMPT_STD = 1e-6
"""Prompts start from N(0, 1e-6²) (official code)."""


def cross_attention(queries: Tensor, keys: Tensor, values: Tensor, fused: bool) -> Tensor:
    """CA of Eq. 8: the same queries for every image.

    Args:
        queries: (heads, P, head_dim).
        keys, values: (B, heads, n, head_dim).
        fused: scaled_dot_product_attention, else the explicit score matrix.

    Returns:
        (B, P, heads·head_dim).
    """
    keys, values = keys.to(queries.dtype), values.to(queries.dtype)
    if fused:
        out = F.scaled_dot_product_attention(queries.expand(keys.shape[0], -1, -1, -1), keys, values)
    else:
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
        out = scores.softmax(dim=-1) @ values
    return out.transpose(1, 2).flatten(2)


class FineGrainedFusion(nn.Module):
    """FPT+'s fusion: prompts as wide as the LPM, normalised into queries, projected down once fused.

    Args:
        num_layers: tapped layers, one prompt set each.
        num_prompts: P, prompts per layer.
        lpm_dim, num_heads: width D and heads of the LPM.
        side_dim: width D/k of the side network.
        fused_attention: whether cross-attention is one kernel.
        dropout: on the fused prompts (official code: 0.5).
    """

    def __init__(
        self,
        num_layers: int,
        num_prompts: int,
        lpm_dim: int,
        num_heads: int,
        side_dim: int,
        *,
        fused_attention: bool,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.num_heads, self.fused_attention = num_heads, fused_attention
        self.prompts = nn.Parameter(torch.randn(num_layers, num_prompts, lpm_dim) * PROMPT_STD)
        self.norm = nn.LayerNorm(lpm_dim)  # eps 1e-5 here, unlike the 1e-12 of every other LayerNorm (golden tensors)
        self.out_proj = nn.Linear(lpm_dim, side_dim)
        self.dropout = nn.Dropout(dropout)

    def queries(self) -> Tensor:
        """(layers, heads, P, head_dim), for all layers at once."""
        return split_heads(self.norm(self.prompts), self.num_heads)

    def forward(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Fused prompts (B, P, D/k) of one layer from its queries (heads, P, head_dim) and the LPM's tokens."""
        attended = cross_attention(queries, keys, values, self.fused_attention)
        return self.dropout(self.out_proj(attended + self.prompts[layer]))


class ProjectedFusion(nn.Module):
    """FPT's fusion: prompts as wide as the side network, projected up into queries; arguments as FineGrainedFusion."""

    def __init__(
        self,
        num_layers: int,
        num_prompts: int,
        lpm_dim: int,
        num_heads: int,
        side_dim: int,
        *,
        fused_attention: bool,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.num_heads, self.fused_attention = num_heads, fused_attention
        self.prompts = nn.Parameter(torch.randn(num_layers, num_prompts, side_dim) * PROMPT_STD)
        self.prompt_proj = nn.Linear(side_dim, lpm_dim)
        self.out_proj = nn.Linear(lpm_dim, side_dim)
        self.dropout = nn.Dropout(dropout)

    def queries(self) -> Tensor:
        """(layers, heads, P, head_dim), for all layers at once."""
        return split_heads(self.prompt_proj(self.prompts), self.num_heads)

    def forward(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Fused prompts (B, P, D/k) of one layer from its queries (heads, P, head_dim) and the LPM's tokens."""
        attended = cross_attention(queries, keys, values, self.fused_attention)
        return self.dropout(self.out_proj(attended) + self.prompts[layer])


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(layers, P, D) to (layers, heads, P, head_dim)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
