"""The feed-forward part of a transformer layer, which keeps little for its backward pass.

What GELU makes of the hidden numbers is as large as they are, four times the layer's tokens. It is made again in the
backward pass instead of being kept: element-wise work beside the products, and the largest share of what a layer of the
side network keeps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from . import cpu_kernels
from .linear import autocasted, gradients_of_weight_and_bias


def feed_forward(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """gelu(x · W₁ᵀ + b₁) · W₂ᵀ + b₂.

    Args:
        x: (B, T, D); all arguments are brought to the type of autocast, if there is one.
        weight1, bias1: (hidden, D) and (hidden,).
        weight2, bias2: (D, hidden) and (D,).

    Returns:
        (B, T, D).
    """
    arguments = (x, weight1, bias1, weight2, bias2)
    if has_torch_function((x,)):  # a prediction's autocast for meta tensors
        return handle_torch_function(feed_forward, (x,), *arguments)
    return _FeedForward.apply(*autocasted(*arguments))


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        before_gelu = F.linear(x, weight1, bias1)
        ctx.save_for_backward(x, weight1, weight2, before_gelu)
        return F.linear(_gelu(before_gelu), weight2, bias2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        x, weight1, weight2, before_gelu = ctx.saved_tensors
        hidden, grad_hidden = _gelu_again(before_gelu, grad @ weight2)
        of_second = gradients_of_weight_and_bias(hidden, grad)
        del hidden
        return grad_hidden @ weight1, *gradients_of_weight_and_bias(x, grad_hidden), *of_second


def _gelu(x: Tensor) -> Tensor:
    if not cpu_kernels.can_run_on(x):
        return F.gelu(x)
    out = torch.empty_like(x)
    cpu_kernels.run("gelu", x.view(-1), out.view(-1))
    return out


def _gelu_again(x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """GELU of x, and the gradient of x from that of it."""
    if not cpu_kernels.can_run_on(x):
        return F.gelu(x), torch.ops.aten.gelu_backward(grad, x)
    out, grad_x = torch.empty_like(x), torch.empty_like(x)
    cpu_kernels.run("gelu_backward", *(part.view(-1) for part in (x, grad, out, grad_x)))
    return out, grad_x
