"""Multiply-accumulates (MACs) of a forward pass: the true count, and fvcore's count (FPT+, Table II).

One MAC is one multiplication with its addition. PyTorch's counter calls it two flops, fvcore one.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

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
    with warnings.catch_warnings(), _patch_embeddings_as_products(model):
        warnings.simplefilter("ignore")  # the tracer's remarks on shapes; tracing a batch of one as it is does no harm
        analysis = FlopCountAnalysis(model, inputs)
        # fvcore's own rule breaks if a product is written into a third tensor
        analysis.set_op_handle("aten::bmm", lambda operands, results: bmm_flop_jit(operands[:2], results))
        for function, inputs_with_tokens in ((NormedQKV, 2), (AfterAttention, 1)):  # opaque to the tracer
            rule = partial(_layer_norm_and_linears, inputs_with_tokens)
            analysis.set_op_handle(f"prim::PythonOp.{function.__name__}", rule)
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
def _patch_embeddings_as_products(model: nn.Module) -> Iterator[None]:
    """Run patch embeddings as matrix products, which they are: PyTorch cannot trace a convolution on meta tensors."""
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == m.stride]
    for convolution in convolutions:
        convolution.forward = partial(_embed_patches, convolution)
    try:
        yield
    finally:
        for convolution in convolutions:
            del convolution.forward


def _embed_patches(convolution: nn.Conv2d, images: Tensor) -> Tensor:
    """Return the convolution of (B, C, H, W) images as patches times weights; its kernel size equals its stride."""
    (height, width), (rows, columns) = images.shape[-2:], convolution.kernel_size
    patches = images.unflatten(3, (int(width) // columns, columns)).unflatten(2, (int(height) // rows, rows))
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
    return F.linear(patches, convolution.weight.flatten(1), convolution.bias).permute(0, 3, 1, 2)
