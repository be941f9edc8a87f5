"""The dtype of matrix products."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

Precision = Literal["fp32", "bf16", "fp16"]
AUTOCAST_DTYPE: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device_type: str) -> AbstractContextManager:
    """Return the context of a precision: autocast with fp32 weights for bf16 and fp16, none for fp32."""
    dtype = AUTOCAST_DTYPE.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype)


def products_dtype(tensor: Tensor) -> torch.dtype:
    """Return autocast's dtype if autocast is on for the tensor's device, else the tensor's own."""
    if has_torch_function((tensor,)):  # a prediction's autocast for meta tensors
        return handle_torch_function(products_dtype, (tensor,), tensor)
    device_type = tensor.device.type
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return tensor.dtype
