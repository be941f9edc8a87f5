"""The attention kernel that a CUDA device runs: how it is chosen, and the same operator on meta tensors.

Source: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp; a test checks each of the rules on the emulated cards.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

AttentionKernel = Literal["math", "efficient", "flash", "cudnn"]

_HALF = (torch.bfloat16, torch.float16)
aten = torch.ops.aten


def choose_attention_kernel(
    attention: str,
    dtype: torch.dtype,
    head_dim: int,
    capability: tuple[int, int],
    *,
    has_mask: bool = False,
    has_gradient: bool = True,
    num_queries: int = 2,
) -> AttentionKernel | None:
    """Return the kernel that scaled_dot_product_attention picks: the first in its order that runs.

    Args:
        attention: `flash` or `efficient` to allow only that kernel; otherwise PyTorch chooses.
        dtype, head_dim, num_queries: type, head dimension and number of the queries.
        capability: the card's compute capability.
        has_mask: whether there is a mask.
        has_gradient: whether a backward pass will follow.

    Returns:
        The kernel's name; None if the only kernel allowed does not run.
    """
    running = tuple(_running(dtype, head_dim, capability, has_mask, has_gradient, num_queries))
    if attention in ("flash", "efficient"):
        return attention if attention in running else None
    return running[0]


def _running(
    dtype: torch.dtype,
    head_dim: int,
    capability: tuple[int, int],
    has_mask: bool,
    has_gradient: bool,
    num_queries: int,
) -> Iterator[AttentionKernel]:
    """Yield the kernels that run, in PyTorch's order. cuDNN's comes first only on Hopper and data-centre Blackwell."""
    is_half, major = dtype in _HALF, capability[0]
    fits_cudnn = head_dim % 8 == 0 and head_dim <= 256 and (head_dim <= 128 or head_dim == 256 or not has_gradient)
    if major in (9, 10) and is_half and fits_cudnn and (major == 9 or num_queries > 1):
        yield "cudnn"
    if major >= 8 and is_half and not has_mask and head_dim <= 256:
        little_shared_memory = capability in ((8, 6), (8, 7), (8, 9)) or major == 12
        if not (has_gradient and little_shared_memory and 192 < head_dim <= 224):
            yield "flash"
    alignment = 8 if is_half else 4 if major >= 8 else 1
    if head_dim % alignment == 0 and (dtype is not torch.bfloat16 or major >= 8):
        yield "efficient"
    yield "math"


def run_attention_kernel(
    kernel: AttentionKernel,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    """Run scaled_dot_product_attention through the aten operator of one kernel; the arguments are the same."""
    needs_log_sum_exp = has_gradient(query, key, value)
    match kernel:
        case "flash":
            head_dim = query.shape[-1]
            scale = scale or head_dim**-0.5
            query, key, value = (F.pad(t, (0, -head_dim % 8)) if head_dim % 8 else t for t in (query, key, value))
            flash = aten._scaled_dot_product_flash_attention
            return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0][..., :head_dim]
        case "cudnn":
            cudnn = aten._scaled_dot_product_cudnn_attention
            return cudnn(query, key, value, attn_mask, needs_log_sum_exp, dropout_p, is_causal, False, scale=scale)[0]
        case "efficient":
            efficient = aten._scaled_dot_product_efficient_attention
            return efficient(query, key, value, attn_mask, needs_log_sum_exp, dropout_p, is_causal, scale=scale)[0]
    return aten._scaled_dot_product_attention_math(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)[0]


def has_gradient(*tensors: Tensor) -> bool:
    """Whether a backward pass through any of these tensors will follow."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
