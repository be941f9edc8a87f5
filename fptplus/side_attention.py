"""Self-attention of the side network, whose heads are narrow: k times narrower than the LPM's, 8 numbers for ViT-B.

A GPU has kernels for it. A CPU's fused kernel is made for wide heads, and takes several times as long for narrow ones
as the kernel here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cpu_kernels


def side_attention(queries_keys_values: Tensor, kept: int) -> Tensor:
    """softmax(q · Kᵀ / √head_dim) · V of the first tokens, of which the others are only keys and values.

    Args:
        queries_keys_values: (B, N, 3, heads, head_dim).
        kept: T, how many tokens have queries.

    Returns:
        (B, T, heads·head_dim).
    """
    if cpu_kernels.can_run_on(queries_keys_values):
        return _OnCPU.apply(queries_keys_values, kept)
    queries, keys, values = _parts(queries_keys_values, kept)
    if kept == 1:
        return _of_one_query(queries, keys, values).flatten(2)
    out = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (queries, keys, values)))
    return out.transpose(1, 2).flatten(2)


def _of_one_query(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention (B, 1, heads, head_dim) without a kernel: for 128 queries and fewer those take the same memory."""
    scores = (queries * keys).sum(dim=-1, keepdim=True) * queries.shape[-1] ** -0.5
    return (torch.softmax(scores, dim=1).to(values.dtype) * values).sum(dim=1, keepdim=True).to(values.dtype)


def _parts(queries_keys_values: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, T, heads, head_dim), and keys and values (B, N, heads, head_dim)."""
    queries, keys, values = queries_keys_values.unbind(2)
    return queries[:, :kept], keys, values


class _OnCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries_keys_values: Tensor, kept: int) -> Tensor:
        queries, keys, values = _parts(queries_keys_values, kept)
        batch_size, _, heads, _ = queries.shape
        out = queries.new_empty(queries.shape)
        room = cpu_kernels.room_to_keep(kept, keys.shape[1], queries)
        probabilities = torch.empty(batch_size, heads, room)
        cpu_kernels.run("side_forward", queries, keys, values, out, probabilities)
        ctx.kept = kept
        ctx.save_for_backward(queries_keys_values, probabilities)
        return out.flatten(2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        queries_keys_values, probabilities = ctx.saved_tensors
        parts = _parts(queries_keys_values, ctx.kept)
        grad = cpu_kernels.side_by_side(grad).unflatten(-1, parts[0].shape[2:])
        gradient = torch.empty_like(queries_keys_values)
        gradient[:, ctx.kept :, 0] = 0
        cpu_kernels.run("side_backward", *parts, probabilities, grad, *_parts(gradient, ctx.kept))
        return gradient, None
