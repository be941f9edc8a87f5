"""Fused attention that also gives the log-sum-exp of each row of scores, without the N×N matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

FLASH_CAPABILITY = (8, 0)
"""Lowest CUDA compute capability that runs flash attention."""

aten = torch.ops.aten


def attention_with_log_sum_exp(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Compute attention, and the log-sum-exp of each query's scaled scores where the fused kernel gives it.

    Args:
        queries, keys, values: (B, heads, N, head_dim), of one dtype and without gradients.

    Returns:
        The output, shaped like the queries; and the log-sum-exp (B, heads, N) in fp32, or None where the device's
        kernel does not give it or does not take heads of this width.
    """
    head_dim = queries.shape[-1]
    half, can_flash = queries.dtype in (torch.bfloat16, torch.float16), has_flash(queries)
    match queries.device.type:
        case "cpu":
            out, log_sum_exp = aten._scaled_dot_product_flash_attention_for_cpu(queries, keys, values)
            return out, log_sum_exp.float()
        case "cuda" | "meta" if half and head_dim % 8 == 0 and head_dim <= 256 and can_flash:
            out, log_sum_exp, *_ = aten._scaled_dot_product_flash_attention(queries, keys, values)
            return out, log_sum_exp
        case "cuda" | "meta" if head_dim % (8 if half else 4) == 0 and (can_flash or queries.dtype != torch.bfloat16):
            out, log_sum_exp, *_ = aten._scaled_dot_product_efficient_attention(queries, keys, values, None, True)
            return out, log_sum_exp[..., : queries.shape[2]]
    return F.scaled_dot_product_attention(queries, keys, values), None


def has_flash(queries: Tensor) -> bool:
    """Return whether the tensor's device has flash attention, or is a meta device that may stand for one that has it.

    Devices without it also lack every other fused kernel in bf16, and products of bf16 that give fp32.
    """
    if has_torch_function((queries,)):  # a memory prediction, which knows the card
        return handle_torch_function(has_flash, (queries,), queries)
    device = queries.device
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY
