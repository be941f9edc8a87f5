"""Cross-attention of the prompts over stored keys and values, of all layers at once (FPT+, Eq. 8).

Every image has the same queries, and the stored features get no gradient. So the scores need no copy of the queries for
each image, the backward pass makes no gradient of keys and values, and only a few images at a time are brought from the
type they are stored in to the type they are multiplied in:

    P = softmax(q · Kᵀ)     out = P · V
    dS = P ∘ (dP - Σ P ∘ dP)  with dP = dout · Vᵀ     dq = Σ over images of dS · K

int8 features are K = K₈ ∘ k with one scale k a channel, and q · Kᵀ = (q ∘ k) · K₈ᵀ: the numbers are multiplied as they
are, and only the few queries, outputs and their gradients are scaled.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fptplus import cpu_kernels

from .precision import products_dtype


def stored_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    key_scales: Tensor | None = None,
    value_scales: Tensor | None = None,
    chosen: Tensor | None = None,
) -> Tensor:
    """CA of Eq. 8 of every layer, image and head.

    Args:
        queries: (layers, heads, P, head_dim); the products are of their type, or of autocast's.
        keys, values: (layers, B, heads, n, head_dim) of any type; fastest where the numbers of an image lie together.
        key_scales, value_scales: (layers, B, heads, head_dim) of int8 keys and values, else None.
        chosen: (B,) indices of the batch's images among those of keys, values and scales, if these hold more.

    Returns:
        (layers, B, P, heads·head_dim) in the type of the products.
    """
    dtype = products_dtype(queries)
    if cpu_kernels.can_run_on(keys, queries) and keys.dtype == values.dtype and dtype in cpu_kernels.TYPES:
        return _OnCPU.apply(
            queries.float().contiguous(), dtype, keys, values, *choose((key_scales, value_scales), chosen), chosen
        )
    features = choose((keys, values, key_scales, value_scales), chosen)
    return _StoredAttention.apply(queries.to(dtype) * queries.shape[-1] ** -0.5, *features)


def choose(features: Sequence[Tensor | None], chosen: Tensor | None) -> list[Tensor | None]:
    """Of features (layers, images, ...), those of the chosen images; all where there is no choice."""
    return [part if part is None or chosen is None else part[:, chosen] for part in features]


class _OnCPU(torch.autograd.Function):
    """Arguments and result of stored_attention; the queries are in fp32, the result is of `dtype`."""

    @staticmethod
    def forward(ctx, queries: Tensor, dtype: torch.dtype, *features: Tensor | None) -> Tensor:
        layers, heads, prompts, head_dim = queries.shape
        keys, values, *scales, chosen = features
        keys, values = map(cpu_kernels.side_by_side, (keys, values))
        key_scales, value_scales = (part if part is None else part.float().contiguous() for part in scales)
        batch_size = keys.shape[1] if chosen is None else len(chosen)
        out = queries.new_empty(layers, batch_size, prompts, heads, head_dim, dtype=dtype)
        room = cpu_kernels.room_to_keep(prompts, keys.shape[3], out)
        probabilities = torch.empty(layers, batch_size, heads, room)
        stored = (keys, key_scales, values, value_scales, chosen)
        cpu_kernels.run("stored_forward", queries, *stored, out, probabilities)
        ctx.save_for_backward(*stored, probabilities)
        ctx.shape = queries.shape
        return out.flatten(3)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        *stored, probabilities = ctx.saved_tensors
        gradient = torch.empty(ctx.shape)
        grad = cpu_kernels.side_by_side(grad).unflatten(3, (ctx.shape[1], -1))
        cpu_kernels.run("stored_backward", *stored, probabilities, grad, gradient)
        return gradient, *[None] * 6


class _StoredAttention(torch.autograd.Function):
    """Arguments and result of stored_attention; the queries are scaled and of the products' type.

    Inside, layers and heads are one axis M: features (B, M, n, head_dim), which is how a store keeps an image's.
    """

    @staticmethod
    def forward(ctx, queries: Tensor, *features: Tensor | None) -> Tensor:
        layers, heads, prompts, head_dim = queries.shape
        keys, values, key_scales, value_scales = _by_image(features)
        flat = queries.flatten(0, 1)
        out = queries.new_empty(layers, len(keys), prompts, heads, head_dim)
        out_by_image = out.permute(1, 0, 3, 2, 4)
        for images in _pieces(keys):
            probabilities = _probabilities(flat, keys[images], key_scales, images)
            attended = _scaled(probabilities @ values[images].to(flat.dtype), value_scales, images)
            out_by_image[images] = attended.unflatten(1, (layers, heads))
        ctx.save_for_backward(queries, *features)
        return out.flatten(3)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, *features = ctx.saved_tensors
        keys, values, key_scales, value_scales = _by_image(features)
        flat, dtype = queries.flatten(0, 1), grad.dtype
        grad_by_image = grad.unflatten(3, (queries.shape[1], -1)).permute(1, 0, 3, 2, 4)
        total = torch.zeros_like(flat, dtype=torch.float32)
        for images in _pieces(keys):
            probabilities = _probabilities(flat, keys[images], key_scales, images)
            slopes = _scaled(grad_by_image[images].flatten(1, 2), value_scales, images)
            slopes = slopes @ values[images].to(dtype).mT
            slopes = torch.ops.aten._softmax_backward_data(slopes, probabilities, -1, dtype)
            by_image = _scaled(slopes @ keys[images].to(dtype), key_scales, images)
            total += by_image.sum(dim=0, dtype=torch.float32)
        return total.to(dtype).view_as(queries), None, None, None, None


def _by_image(features: Sequence[Tensor | None]) -> list[Tensor | None]:
    """(layers, B, heads, ...) as (B, layers·heads, ...): views, where the numbers of an image lie together."""
    return [part if part is None else part.transpose(0, 1).flatten(1, 2) for part in features]


def _probabilities(queries: Tensor, keys: Tensor, key_scales: Tensor | None, images: slice) -> Tensor:
    """P (b, M, P, n) of b images from their keys (b, M, n, head_dim)."""
    scores = _scaled(queries, key_scales, images) @ keys.to(queries.dtype).mT
    return torch.softmax(scores, dim=-1, out=scores)


def _images_at_once(device: torch.device, batch_size: int) -> int:
    """Images converted and multiplied together: on a CPU one, which its caches hold; else an eighth of the batch."""
    return 1 if device.type == "cpu" else -(-batch_size // 8)


def _pieces(features: Tensor) -> Iterator[slice]:
    """The images of a batch, a few at a time."""
    step = _images_at_once(features.device, len(features))
    return (slice(start, start + step) for start in range(0, len(features), step))


def _scaled(rows: Tensor, scales: Tensor | None, images: slice) -> Tensor:
    """Rows (..., M, P, head_dim) times the scales (B, M, head_dim) of some images; as they are where there are none."""
    return rows if scales is None else rows * scales[images].unsqueeze(2).to(rows.dtype)
