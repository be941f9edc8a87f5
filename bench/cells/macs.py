"""Multiply-accumulates (MACs) of a forward pass: the true count, and fvcore's count (FPT+, Table II).

One MAC is one multiplication with its addition. PyTorch's counter calls it two flops, fvcore one.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, flop_registry

from fptplus.network.features import Inputs
from fptplus.network.lean.side_layer import AfterAttention, NormedQKV


def forward_macs(model: nn.Module, inputs: Inputs) -> int:
    """Return the MACs of model(*inputs): matrix products, convolutions and attention kernels, nothing element-wise.

    Args:
        model, inputs: model and inputs on the meta device, where fused attention is counted; on a CPU it counts as 0.
    """
    # with gradients: without them the counter trips over a parameter that is a module's input (attention pooling)
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


_FORMULAS = {
    str(packet).removeprefix("aten."): formula
    for packet, formula in flop_registry.items()
    if str(packet).startswith("aten.") and "conv" not in str(packet)
}
"""PyTorch's formulas for an operator's flops from the shapes of its arguments; convolutions need more."""


def macs_of(op: str, arguments: Sequence[Any]) -> int:
    """Return the MACs of an operator from its arguments by PyTorch's formulas; 0 if it has none.

    Args:
        op: plain name of an aten operator.
        arguments: the operator's arguments, with sizes in place of tensors.
    """
    formula = _FORMULAS.get(op)
    return 0 if formula is None else formula(*arguments, out_val=None) // 2


def convolution_macs(shapes: Sequence[Sequence[int]], values: Sequence[Any]) -> int:
    """Return the MACs of `aten::convolution`, not transposed.

    Args:
        shapes: shapes of the image (B, C, ...) and the weight.
        values: the operator's arguments; strides, padding and dilation are used.
    """
    image, weight, (stride, padding, dilation) = shapes[0], shapes[1], values[3:6]
    sizes = zip(image[2:], weight[2:], stride, padding, dilation, strict=True)
    out = [(size + 2 * pad - gap * (kernel - 1) - 1) // step + 1 for size, kernel, step, pad, gap in sizes]
    return conv_flop_count(image, weight, [image[0], weight[0], *out]) // 2


def convolution_backward_macs(shapes: Sequence[Sequence[int]], values: Sequence[Any]) -> int:
    """Return the MACs of `aten::convolution_backward`: as many as forward for each gradient, of image and of weight.

    Args:
        shapes: shapes of the result's gradient, the image and the weight.
        values: the operator's arguments; the last says which gradients are wanted.
    """
    out, image, weight = shapes[:3]
    return sum(values[10][:2]) * conv_flop_count(image, weight, out) // 2


def fvcore_macs(model: nn.Module, inputs: Inputs) -> int | None:
    """Return what fvcore reports as flops of model(*inputs) on meta tensors, or None if it is not installed.

    It counts 1 MAC as 1 flop and adds normalisations. It has no rule for fused attention and leaves it out. Compare it
    only with other numbers of the same kind.
    """
    try:
        from fvcore.nn import FlopCountAnalysis
        from fvcore.nn.jit_handles import bmm_flop_jit
    except ImportError:
        return None
    with warnings.catch_warnings(), _convolutions_apart():
        warnings.simplefilter("ignore")  # the tracer's remarks on shapes; a batch of one is traced as it is
        analysis = FlopCountAnalysis(model, inputs)
        # fvcore's own rule breaks if a product is written into a third tensor
        analysis.set_op_handle("aten::bmm", lambda operands, results: bmm_flop_jit(operands[:2], results))
        for function, inputs_with_tokens in ((NormedQKV, 2), (AfterAttention, 1)):  # opaque to the tracer
            rule = partial(_layer_norm_and_linears, inputs_with_tokens)
            analysis.set_op_handle(f"prim::PythonOp.{function.__name__}", rule)
        analysis.set_op_handle(f"prim::PythonOp.{Convolution.__name__}", _convolution)
        return int(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())


def _layer_norm_and_linears(inputs_with_tokens: int, operands: Sequence[Any], results: Sequence[Any]) -> int:
    """Return fvcore's count of a function whose tokens pass through a LayerNorm and each matrix, from traced values.

    Its first `inputs_with_tokens` inputs hold the tokens (B, T, D). fvcore counts 5 for each number in
    a LayerNorm.
    """
    shapes = [operand.type().sizes() for operand in operands]
    tokens = sum(prod(shape[:2]) for shape in shapes[:inputs_with_tokens])
    return tokens * (5 * shapes[0][2] + sum(prod(shape) for shape in shapes if len(shape) == 2))


@contextmanager
def _convolutions_apart() -> Iterator[None]:
    """Let convolutions run as functions that a tracer does not see into: it cannot trace one on meta tensors."""
    with ExitStack() as stack:
        for name in ("conv1d", "conv2d", "conv3d"):
            apart = partial(_convolved, getattr(F, name))
            stack.enter_context(mock.patch.object(F, name, apart))
        yield


def _convolved(convolve: Callable[..., Tensor], input: Tensor, weight: Tensor, *rest: Any, **options: Any) -> Tensor:
    return Convolution.apply(input, weight, lambda images, kernels: convolve(images, kernels, *rest, **options))


class Convolution(torch.autograd.Function):
    """A convolution on meta tensors in one piece, for counting: it has no backward pass."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, convolve: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A tensor of the shape that the convolution of images (B, C, ...) has, which takes sizes that are numbers."""
        tracing = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)
        try:
            shape = convolve(images, weight).shape
        finally:
            torch._C._set_tracing_state(tracing)
        return images.new_empty(shape)


def _convolution(operands: Sequence[Any], results: Sequence[Any]) -> int:
    """fvcore's count of a Convolution: each number of the result (B, C, ...) is a product with a channel's kernel."""
    kernel = operands[1].type().sizes()[1:]
    return prod(results[0].type().sizes()) * prod(kernel)
