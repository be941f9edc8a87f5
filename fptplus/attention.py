"""Fused attention that also says how large each row of its softmax was, without the N×N matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor

FLASH_CAPABILITY = (8, 0)
"""The CUDA compute capability that flash attention needs."""

aten = torch.ops.aten


def attention_with_log_sum_exp(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Attention, and the log-sum-exp of each query's scaled scores where the fused kernel gives it.

    Args:
        queries, keys, values: (B, heads, N, head_dim), of one dtype and without gradients.

    Returns:
        the attention's output, as the queries; the log-sum-exp (B, heads, N) in fp32, or None where the device's
        kernel does not give it or takes no heads of this width.
    """
    head_dim = queries.shape[-1]
    half = queries.dtype in (torch.bfloat16, torch.float16)
    match queries.device.type:
        case "cpu":
            out, log_sum_exp = aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values)
            return out, log_sum_exp.float()
        case "cuda" | "meta" if half and head_dim % 8 == 0 and head_dim <= 256 and _has_flash(queries.device):
            out, log_sum_exp, *_ = aten._scaled_dot_product_flash_attention(queries, keys, values)
            return out, log_sum_exp
        case "cuda" | "meta" if head_dim % (8 if half else 4) == 0:
            out, log_sum_exp, *_ = aten._scaled_dot_product_efficient_attention(queries, keys, values, None, True)
            return out, log_sum_exp[..., : queries.shape[2]]
    return F.scaled_dot_product_attention(queries, keys, values), None


def _has_flash(device: torch.device) -> bool:
    """Whether half precision goes to flash attention; traces on meta tensors are of devices that have it."""
    return device.type == "meta" or torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY
