"""Self-attention of the side network, whose heads are narrow: k times narrower than the LPM's, 8 numbers for ViT-B.

A GPU has kernels for it. A CPU's fused kernel is made for wide heads, and in explicit attention over such narrow ones
the softmax takes most of the time. So here, on a CPU, a few heads at a time stay in the caches, the exponentials are
not normalised but their sums come from the product with the values, by columns of ones, and the backward pass makes
them again. With E = exp(q · Kᵀ), and V₁ the values with columns of ones beside them:

    [E · V, Σ E, ...] = E · V₁      out = E · V / Σ E
    g = dout / Σ E      dV = Eᵀ · g      dS = E ∘ ([g, -Σ out ∘ g, 0 ...] · V₁ᵀ)      dq = dS · K      dK = dSᵀ · q

There are as many ones as values, so that the division is of equal shapes, and as many more as make whole vectors. The
number Σ out ∘ g, one for a whole row, is spread over two of them: in half precision its error would not average out.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES_AT_ONCE = 2**20
"""Scores that are held at once; two matrices of so many numbers fit the caches of a core or two."""

SAFE_EXPONENT = 40.0
"""Scores up to this size are exponentiated as they are: a row's sum stays far inside the range of fp32 and bf16."""

LOG2_E = math.log2(math.e)


def side_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(q · Kᵀ / √head_dim) · V.

    Args:
        queries: (B, heads, T, head_dim).
        keys, values: (B, heads, N, head_dim).

    Returns:
        (B, heads, T, head_dim).
    """
    if queries.device.type != "cpu":
        return F.scaled_dot_product_attention(queries, keys, values)
    flat = (part.flatten(0, 1) for part in (queries * (queries.shape[-1] ** -0.5 * LOG2_E), keys, values))
    return _NarrowHeads.apply(*flat).unflatten(0, queries.shape[:2])


class _NarrowHeads(torch.autograd.Function):
    """On queries (M, T, d) scaled for powers of two, keys and values (M, N, d)."""

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        width = values.shape[-1]
        values = F.pad(values, (0, -(-2 * width // 16) * 16 - width), value=1.0)
        small = _largest_norm(queries) * _largest_norm(keys) <= SAFE_EXPONENT * LOG2_E
        raw = torch.empty(*queries.shape[:2], values.shape[-1], dtype=values.dtype)
        for heads in _pieces(queries, keys):
            raw[heads] = _exponentials(queries[heads], keys[heads], small) @ values[heads]
        sums = raw[..., width : 2 * width]
        out = raw[..., :width] / sums
        ctx.small, ctx.width = small, width
        ctx.save_for_backward(queries, keys, values, out, sums)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values, out, sums = ctx.saved_tensors
        grad = grad / sums
        row_sums = (out.float() * grad).sum(dim=-1, keepdim=True).neg_()
        coarse = row_sums.to(grad.dtype)
        grad = torch.cat([grad, coarse, (row_sums - coarse).to(grad.dtype)], dim=-1)
        grad = F.pad(grad, (0, values.shape[-1] - grad.shape[-1]))
        dq, dk, dv = torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)
        for heads in _pieces(queries, keys):
            exponentials = _exponentials(queries[heads], keys[heads], ctx.small)
            dv[heads] = exponentials.mT @ grad[heads]
            slopes = (grad[heads] @ values[heads].mT).mul_(exponentials)
            dq[heads] = slopes @ keys[heads]
            dk[heads] = slopes.mT @ queries[heads]
        return dq.div_(LOG2_E), dk.div_(LOG2_E), dv[..., : ctx.width]


def _pieces(queries: Tensor, keys: Tensor) -> Iterator[slice]:
    """All heads of all images, a few at a time."""
    step = max(1, SCORES_AT_ONCE // (queries.shape[1] * keys.shape[1]))
    return (slice(start, start + step) for start in range(0, len(queries), step))


def _largest_norm(vectors: Tensor) -> float:
    return torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float32).max().item()


def _exponentials(queries: Tensor, keys: Tensor, small: bool) -> Tensor:
    """Two to the power of each score; if they are not all small, divided by the largest of its row."""
    scores = queries @ keys.mT
    if not small:
        scores -= scores.amax(dim=-1, keepdim=True)
    return scores.exp2_()
