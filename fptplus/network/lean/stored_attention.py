"""Cross-attention (CA) of the prompts over stored keys and values, for all layers at once (FPT+, Eq. 8).

Every image has the same queries, and the stored features get no gradient. So the scores need no copy of the queries for
each image, the backward pass computes no gradient of keys and values, and only a few images at a time are converted
from the type they are stored in to the type they are multiplied in:

    P = softmax(q · Kᵀ)     out = P · V
    dS = P ∘ (dP - Σ P ∘ dP)  with dP = dout · Vᵀ     dq = Σ over images of dS · K

int8 features are K = K₈ ∘ k with one scale k per channel, and q · Kᵀ = (q ∘ k) · K₈ᵀ: the numbers are multiplied as
they are, and only the few queries, outputs and their gradients are scaled.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fptplus import cpu_kernels
from fptplus.network.features import Features
from fptplus.network.precision import products_dtype


def stored_attention(queries: Tensor, features: Features) -> Tensor:
    """Compute CA of Eq. 8 for every layer, image and head.

    Args:
        queries: (layers, heads, P, head_dim); products have their dtype, or autocast's.
        features: features of the same layers; fastest if each image's numbers are contiguous.

    Returns:
        The attention's output (layers, B, P, heads·head_dim) in the dtype of the products.
    """
    dtype, (keys, values, *scales, rows) = products_dtype(queries), features
    if cpu_kernels.can_run_on(keys, queries) and keys.dtype == values.dtype and dtype in cpu_kernels.TYPES:
        if rows is not None:  # the kernel reads the numbers in place
            scales = [part if part is None else part[:, rows] for part in scales]
        return _OnCPU.apply(queries.float().contiguous(), dtype, keys, values, *scales, rows)
    return _StoredAttention.apply(queries.to(dtype) * queries.shape[-1] ** -0.5, *features.of_batch()[:4])


class _OnCPU(torch.autograd.Function):
    """stored_attention on a CPU; takes queries in fp32, the result's `dtype`, and the fields of Features."""

    @staticmethod
    def forward(ctx, queries: Tensor, dtype: torch.dtype, *features: Tensor | None) -> Tensor:
        layers, heads, prompts, head_dim = queries.shape
        keys, values, *scales, rows = features
        keys, values = map(cpu_kernels.side_by_side, (keys, values))
        key_scales, value_scales = (part if part is None else part.float().contiguous() for part in scales)
        batch_size = keys.shape[1] if rows is None else len(rows)
        out = queries.new_empty(layers, batch_size, prompts, heads, head_dim, dtype=dtype)
        room = cpu_kernels.room_to_keep(prompts, keys.shape[3], out)
        probabilities = torch.empty(layers, batch_size, heads, room)
        stored = (keys, key_scales, values, value_scales, rows)
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
    """stored_attention in PyTorch; takes scaled queries in the products' dtype, and the fields of Features.

    Inside, layers and heads form one axis M: features are (B, M, n, head_dim), as a store keeps them.
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
    """Reshape (layers, B, heads, ...) to (B, layers·heads, ...): views, if each image's numbers are contiguous."""
    return [part if part is None else part.transpose(0, 1).flatten(1, 2) for part in features]


def _probabilities(queries: Tensor, keys: Tensor, key_scales: Tensor | None, images: slice) -> Tensor:
    """Return the probabilities P (b, M, P, n) of b images from their keys (b, M, n, head_dim)."""
    scores = _scaled(queries, key_scales, images) @ keys.to(queries.dtype).mT
    return torch.softmax(scores, dim=-1, out=scores)


def _images_at_once(device: torch.device, batch_size: int) -> int:
    """Return how many images to process together: on a CPU one, which fits its caches; else an eighth of the batch."""
    return 1 if device.type == "cpu" else -(-batch_size // 8)


def _pieces(features: Tensor) -> Iterator[slice]:
    """Yield the images of a batch as slices, a few at a time."""
    step = _images_at_once(features.device, len(features))
    return (slice(start, start + step) for start in range(0, len(features), step))


def _scaled(rows: Tensor, scales: Tensor | None, images: slice) -> Tensor:
    """Multiply rows (..., M, P, head_dim) by the scales (B, M, head_dim) of some images, if there are scales."""
    return rows if scales is None else rows * scales[images].unsqueeze(2).to(rows.dtype)
