"""A linear layer whose backward pass needs no memory beside its gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x · Wᵀ + b.

    Args:
        x: (B, T, in).
        weight, bias: (out, in) and (out,). All are brought to the type of autocast, if there is one.

    Returns:
        (B, T, out).
    """
    if has_torch_function((x,)):  # a prediction's autocast for meta tensors
        return handle_torch_function(linear, (x,), x, weight, bias)
    return _Linear.apply(*autocasted(x, weight, bias))


def autocasted(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In the type that autocast says for their device, if it is on there."""
    device_type = tensors[0].device.type
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(tensor.to(dtype) for tensor in tensors)


def gradients_of_weight_and_bias(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """From a linear layer's input (B, T, in) and the gradient of its output (B, T, out).

    On a GPU a sum over many rows is split over blocks that meet in scratch memory, four times as large as `grad` where
    it is narrow. A product with ones needs none.
    """
    grad = grad.flatten(0, 1)
    if grad.device.type == "cpu":
        of_bias = grad.sum(dim=0)
    else:
        of_bias = (grad.new_ones(1, len(grad)) @ grad).squeeze(0)
    return grad.mT @ x.flatten(0, 1), of_bias


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        return grad @ weight, *gradients_of_weight_and_bias(x, grad)
