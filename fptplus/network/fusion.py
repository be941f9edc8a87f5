"""Fine-grained prompts and fusion modules (FPT+, Sec. III-D, Eq. 7-8).

    FPT+   p (D) ── LayerNorm ────────── query (D) ─┐
                                keys, values (LPM) ─┴─ CA ─ + p ─ out_proj ─ fused prompts (D/k)

    FPT    p (D/k) ── prompt_proj ────── query (D) ─┐
                                keys, values (LPM) ─┴─ CA ─ out_proj ─ + p ─ fused prompts (D/k)

Prompts summarise the tokens of the frozen large pre-trained model (LPM). Eq. 7 reads f_out(CA) + p; p has the LPM's
width D and f_out(CA) the side network's D/k, so FPT+ adds p before the projection, as the official code does.
LayerNorm, prompt_proj and out_proj are shared by all layers. The queries do not depend on the image and are computed
once per step. Nothing here depends on the side network's tokens, so lean layers fuse the prompts of all layers at once.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dropout import Dropout
from .features import Features
from .layer_kind import LayerKind, check_layer_kind
from .lean.stored_attention import stored_attention

PROMPT_STD = 1e-6
"""Standard deviation of the initial prompts, N(0, 1e-6²) (official code)."""


def plain_attention(queries: Tensor, features: Features, *, fused: bool) -> Tensor:
    """Compute cross-attention, CA in Eq. 8, for one layer, operation by operation.

    Args:
        queries: (heads, P, head_dim).
        features: features of the layer, without the layer axis, and of the batch alone.
        fused: whether to use PyTorch's kernel, instead of the score matrices that the official code computes.

    Returns:
        (B, P, heads·head_dim).
    """
    keys, values = features.keys_and_values(queries.dtype)
    if fused:
        out = F.scaled_dot_product_attention(queries.expand(len(keys), -1, -1, -1), keys, values)
    else:
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
        out = scores.softmax(dim=-1) @ values
    return out.transpose(1, 2).flatten(2)


class Fusion(nn.Module):
    """What both fusion modules share; they add `queries`, and `forward` for any range of tapped layers.

    Args:
        num_heads: heads of the LPM.
        layer_kind: lean to fuse the prompts of all layers at once, plain to fuse one layer at a time.
        fused_attention: whether cross-attention computes no score matrices; lean fusion never does.
        dropout: dropout probability of the fused prompts.

    Raises:
        InvalidInput: if lean layers are asked for explicit attention.
    """

    prompts: nn.Parameter

    def __init__(self, num_heads: int, *, layer_kind: LayerKind, fused_attention: bool, dropout: float) -> None:
        super().__init__()
        check_layer_kind(layer_kind, fused_attention=fused_attention)
        self.num_heads, self.layer_kind, self.fused_attention = num_heads, layer_kind, fused_attention
        self.dropout = Dropout(dropout)

    def queries(self) -> Tensor:
        """Return the queries (layers, heads, P, head_dim) of all layers."""
        raise NotImplementedError

    def of_each_layer(self, features: Features) -> Iterator[Tensor]:
        """Yield the fused prompts (B, P, D/k) of each layer, lowest first."""
        queries, is_lean = self.queries(), self.layer_kind == "lean"
        features, at_once = (features, len(queries)) if is_lean else (features.of_batch(), 1)
        for first in range(0, len(queries), at_once):
            layers = slice(first, first + at_once)
            yield from self(layers, queries[layers], features.of_layers(layers))

    def attend(self, queries: Tensor, features: Features) -> Tensor:
        """Compute CA of Eq. 8, (layers, B, P, D), for all layers or, if the layers are plain, for one."""
        if self.layer_kind == "lean":
            return stored_attention(queries, features)
        return plain_attention(queries[0], features.of_layers(0), fused=self.fused_attention).unsqueeze(0)


class FineGrainedFusion(Fusion):
    """FPT+'s fusion: prompts as wide as the LPM, normalised into queries, projected down after fusion.

    Args:
        num_layers: number of tapped layers, each with its own set of prompts.
        num_prompts: P, prompts per layer.
        lpm_dim, num_heads: width D and heads of the LPM.
        side_dim: width D/k of the side network.
        layer_kind, fused_attention: as Fusion takes them.
        dropout: dropout probability of the fused prompts (official code: 0.5).
    """

    def __init__(
        self,
        num_layers: int,
        num_prompts: int,
        lpm_dim: int,
        num_heads: int,
        side_dim: int,
        *,
        layer_kind: LayerKind = "lean",
        fused_attention: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(num_heads, layer_kind=layer_kind, fused_attention=fused_attention, dropout=dropout)
        self.prompts = nn.Parameter(torch.randn(num_layers, num_prompts, lpm_dim) * PROMPT_STD)
        self.norm = nn.LayerNorm(lpm_dim)  # eps 1e-5, not the 1e-12 of every other LayerNorm (golden tensors)
        self.out_proj = nn.Linear(lpm_dim, side_dim)

    def queries(self) -> Tensor:
        return split_heads(self.norm(self.prompts), self.num_heads)

    def forward(self, layers: slice, queries: Tensor, features: Features) -> Tensor:
        """Return the fused prompts (layers, B, P, D/k) of some layers, from their queries and features."""
        attended = self.attend(queries, features)
        return self.dropout(self.out_proj(attended + self.prompts[layers].unsqueeze(1).to(attended.dtype)))


class ProjectedFusion(Fusion):
    """FPT's fusion: prompts as wide as the side network, projected up into queries. See FineGrainedFusion."""

    def __init__(
        self,
        num_layers: int,
        num_prompts: int,
        lpm_dim: int,
        num_heads: int,
        side_dim: int,
        *,
        layer_kind: LayerKind = "lean",
        fused_attention: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(num_heads, layer_kind=layer_kind, fused_attention=fused_attention, dropout=dropout)
        self.prompts = nn.Parameter(torch.randn(num_layers, num_prompts, side_dim) * PROMPT_STD)
        self.prompt_proj = nn.Linear(side_dim, lpm_dim)
        self.out_proj = nn.Linear(lpm_dim, side_dim)

    def queries(self) -> Tensor:
        return split_heads(self.prompt_proj(self.prompts), self.num_heads)

    def forward(self, layers: slice, queries: Tensor, features: Features) -> Tensor:
        """Return the fused prompts (layers, B, P, D/k) of some layers, from their queries and features."""
        return self.dropout(self.out_proj(self.attend(queries, features)) + self.prompts[layers].unsqueeze(1))


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Reshape (layers, P, D) to (layers, heads, P, head_dim)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
