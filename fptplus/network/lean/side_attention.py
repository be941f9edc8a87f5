"""Self-attention of the side network, whose heads are narrow: k times narrower than those of the frozen large
pre-trained model (LPM), 8 channels for ViT-B.

A GPU has kernels for it. PyTorch's fused CPU kernel is made for wide heads; for narrow ones it takes several times as
long as the kernel here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fptplus import cpu_kernels


def side_attention(queries_keys_values: Tensor, kept: int) -> Tensor:
    """Compute softmax(q · Kᵀ / √head_dim) · V for the first tokens; the others serve only as keys and values.

    Args:
        queries_keys_values: (B, N, 3, heads, head_dim).
        kept: T, the number of tokens with queries.

    Returns:
        (B, T, heads·head_dim).
    """
    if cpu_kernels.can_run_on(queries_keys_values):
        return _SideAttentionOnCPU.apply(cpu_kernels.side_by_side(queries_keys_values), kept)
    queries, keys, values = (part.transpose(1, 2) for part in _parts(queries_keys_values, kept))
    return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)


def _parts(queries_keys_values: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries (B, T, heads, head_dim), and keys and values (B, N, heads, head_dim)."""
    queries, keys, values = queries_keys_values.unbind(2)
    return queries[:, :kept], keys, values


class _SideAttentionOnCPU(torch.autograd.Function):
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
