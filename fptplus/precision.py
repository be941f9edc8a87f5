"""What type matrix products are made in."""

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function


def products_dtype(tensor: Tensor) -> torch.dtype:
    """Autocast's type where it is on for the tensor's device, else the tensor's own."""
    if has_torch_function((tensor,)):  # a prediction's autocast for meta tensors
        return handle_torch_function(products_dtype, (tensor,), tensor)
    device_type = tensor.device.type
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return tensor.dtype
