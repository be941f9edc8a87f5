"""Fine-grained prompts and fusion modules (FPT+, Sec. III-D, Eq. 7-8): prompts summarise the LPM's tokens.

    FPT+   p (D) ── LayerNorm ────────── query (D) ─┐
                                keys, values (LPM) ─┴─ CA ─ + p ─ out_proj ─ fused prompts (D/k)

    FPT    p (D/k) ── prompt_proj ────── query (D) ─┐
                                keys, values (LPM) ─┴─ CA ─ out_proj ─ + p ─ fused prompts (D/k)

Eq. 7 reads f_out(CA) + p; p has the LPM's width D and f_out(CA) the side network's D/k, so FPT+ adds p before the
projection, as the official code does. LayerNorm, prompt_proj and out_proj are shared by all layers. The queries do not
depend on the image and are computed once a step, and nothing here depends on the side network's tokens: with fused
attention the prompts of all layers are fused at once.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .dropout import Dropout
from .stored_attention import choose, stored_attention

PROMPT_STD = 1e-6
"""Prompts start from N(0, 1e-6²) (official code)."""


def eager_attention(
    queries: Tensor, keys: Tensor, values: Tensor, key_scales: Tensor | None = None, value_scales: Tensor | None = None
) -> Tensor:
    """CA of Eq. 8 with its score matrices, as in the official code.

    Args and result are those of stored_attention for one layer, without the axis of the layers.
    """
    keys, values = (
        part.to(queries.dtype) if scales is None else part * scales.unsqueeze(-2).to(queries.dtype)
        for part, scales in ((keys, key_scales), (values, value_scales))
    )
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    out = scores.softmax(dim=-1) @ values
    return out.transpose(1, 2).flatten(2)


class Fusion(nn.Module):
    """What both fusion modules share: `queries`, and `forward` on any stretch of the tapped layers."""

    prompts: nn.Parameter
    num_heads: int
    fused_attention: bool

    def queries(self) -> Tensor:
        """(layers, heads, P, head_dim), for all layers at once."""
        raise NotImplementedError

    def of_each_layer(self, *features: Tensor | None, chosen: Tensor | None = None) -> Iterator[Tensor]:
        """Fused prompts (B, P, D/k) of each layer, lowest first; the arguments as stored_attention takes them.

        With fused attention those of all layers are made at once, otherwise each as it is asked for.
        """
        queries = self.queries()
        at_once = len(queries) if self.fused_attention else 1
        if not self.fused_attention:
            features, chosen = choose(features, chosen), None
        for first in range(0, len(queries), at_once):
            layers = slice(first, first + at_once)
            some = (part if part is None else part[layers] for part in features)
            yield from self(layers, queries[layers], *some, chosen=chosen)

    def attend(self, queries: Tensor, *features: Tensor | None, chosen: Tensor | None = None) -> Tensor:
        """CA of Eq. 8, (layers, B, P, D), of all layers or, without fused attention, of one."""
        if self.fused_attention:
            return stored_attention(queries, *features, chosen=chosen)
        return eager_attention(*(part if part is None else part[0] for part in (queries, *features))).unsqueeze(0)


class FineGrainedFusion(Fusion):
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
        self.dropout = Dropout(dropout)

    def queries(self) -> Tensor:
        return split_heads(self.norm(self.prompts), self.num_heads)

    def forward(self, layers: slice, queries: Tensor, *features: Tensor | None, chosen: Tensor | None = None) -> Tensor:
        """Fused prompts (layers, B, P, D/k) of some layers, from their arguments of stored_attention."""
        attended = self.attend(queries, *features, chosen=chosen)
        return self.dropout(self.out_proj(attended + self.prompts[layers].unsqueeze(1).to(attended.dtype)))


class ProjectedFusion(Fusion):
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
        self.dropout = Dropout(dropout)

    def queries(self) -> Tensor:
        return split_heads(self.prompt_proj(self.prompts), self.num_heads)

    def forward(self, layers: slice, queries: Tensor, *features: Tensor | None, chosen: Tensor | None = None) -> Tensor:
        """Fused prompts (layers, B, P, D/k) of some layers, from their arguments of stored_attention."""
        return self.dropout(
            self.out_proj(self.attend(queries, *features, chosen=chosen)) + self.prompts[layers].unsqueeze(1)
        )


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(layers, P, D) to (layers, heads, P, head_dim)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
