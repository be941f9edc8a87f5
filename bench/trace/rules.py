"""Memory that CUDA operators use besides their results: one small rule each, with its source.

A rule looks at an operator call on meta tensors and says what a CUDA device would allocate during it. RULES is the
whole list; `nox -s bench` uses all of them, and `trace_cell(cell, rules=...)` any selection. Tests compare each rule
with the emulated device.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.cards.gpus import Gpu
from bench.units import MIB

from .allocator import round_up
from .reductions import reduction_scratch_bytes

aten = torch.ops.aten


@dataclass(frozen=True)
class Target:
    """Target of the prediction."""

    gpu: Gpu
    torch_version: tuple[int, int]
    """Major and minor version of PyTorch."""


@dataclass(frozen=True)
class Scratch:
    """Memory that an operator takes besides its results."""

    num_bytes: int
    kept_as: str | None = None
    """Name under which the calling thread keeps it permanently; None if the operator gives it back."""

    stage: int = 1
    """Stage in which it is taken. An operator holds everything of one stage at once and gives it back before the next.
    Its results are allocated after the memory of stage 0 is taken and before it is given back."""


@dataclass(frozen=True)
class Rule:
    """What some operators take."""

    name: str
    ops: frozenset
    scratch: Callable[[object, tuple, object, Target], Iterator[Scratch]]

    def __call__(self, op, args: tuple, out, target: Target) -> Iterable[Scratch]:
        """Return what an operator takes on a target, by its positional arguments and its result."""
        return self.scratch(op, args, out, target) if op in self.ops else ()


RULES: dict[str, Rule] = {}
"""All rules by name, which are the functions below."""


def _rule_of(*ops) -> Callable[[Callable], Rule]:
    """Return a decorator that makes a function the rule of some operators."""

    def make(function: Callable) -> Rule:
        RULES[function.__name__] = Rule(function.__name__, frozenset(ops), function)
        return RULES[function.__name__]

    return make


_GEMMS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.bmm.out,
    aten.bmm.dtype_out,
    aten.baddbmm.default,
}


@_rule_of(*_GEMMS, aten.convolution.default)
def cublas_workspace(op, args, out, target: Target) -> Iterator[Scratch]:
    """cuBLAS's workspace: 32 MiB from compute capability 9 on (Blackwell since PyTorch 2.12), else 8,519,680 B.

    Up to PyTorch 2.14, a thread's first matrix product allocates it permanently, and autograd's thread has its own.
    From 2.15 on, each product takes it and gives it back. Source: aten/src/ATen/cuda/CublasHandlePool.cpp.
    """
    if op is aten.convolution.default and not _is_unrolled(args[0], target):
        return
    major, has_more = target.gpu.compute_capability[0], target.torch_version >= (2, 12)
    size = 32 * MIB if major == 9 or (major > 9 and has_more) else 8_519_680
    yield Scratch(size, kept_as="cublas" if target.torch_version < (2, 15) else None)


@_rule_of(aten.addmm.default)
def cublaslt_workspace(op, args, out, target: Target) -> Iterator[Scratch]:
    """cuBLASLt's workspace, for linear layers with a bias: 1 MiB of its own before PyTorch 2.12, kept like cuBLAS's."""
    if target.torch_version < (2, 12):
        yield Scratch(1 * MIB, kept_as="cublaslt")


@_rule_of(aten.native_layer_norm.default, aten.native_layer_norm_backward.default)
def layer_norm_copies(op, args, out, target: Target) -> Iterator[Scratch]:
    """Contiguous copies of tensors for LayerNorm (aten/src/ATen/native/cuda/layer_norm_kernel.cu)."""
    taken = args[: 1 if op is aten.native_layer_norm.default else 2]
    yield from (Scratch(tensor.nbytes, stage=0) for tensor in taken if not tensor.is_contiguous())


@_rule_of(aten._softmax_backward_data.default)
def softmax_backward(op, args, out, target: Target) -> Iterator[Scratch]:
    """The gradient of softmax: the product of its gradient and its result (aten/src/ATen/native/cuda/SoftMax.cu)."""
    yield Scratch(args[0].nbytes)


@_rule_of(aten._scaled_dot_product_efficient_attention_backward.default)
def efficient_attention_backward(op, args, out, target: Target) -> Iterator[Scratch]:
    """Memory-efficient attention's backward pass: row sums of out·grad, and fp32 accumulators of 64-row tiles.

    The kernels for half precision compute the products themselves, those for fp32 are given them. In half precision,
    heads wider than 64 take up to three times the accumulators on some cards.
    Source: aten/src/ATen/native/transformers/cuda/attention_backward.cu and mem_eff_attention/kernel_backward.h.
    """
    query = args[1]
    batch, heads, tokens, head_dim = query.shape
    row_bytes = batch * heads * tokens * 4
    if query.dtype == torch.float32:
        yield Scratch(query.nbytes)
        yield Scratch(row_bytes)
    yield Scratch(row_bytes, stage=2)
    tiles = -(-tokens // 64) * -(-head_dim // 64)
    yield Scratch(batch * heads * tiles * 16_400, stage=2)


@_rule_of(aten._scaled_dot_product_flash_attention.default)
def flash_attention(op, args, out, target: Target) -> Iterator[Scratch]:
    """Flash attention on few images splits the keys, so that all multiprocessors have work; the parts are in fp32.

    Source: set_params_splitkv in aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp.
    """
    if len(args) < 4 or args[3] == 0:  # no dropout
        (batch, heads, queries, head_dim), keys = args[0].shape, args[1].shape[2]
        block = 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64
        splits = _flash_splits(batch * heads * -(-queries // 64), 2 * target.gpu.num_sms, -(-keys // block))
        if splits > 1:
            rows = splits * batch * heads * queries
            yield Scratch(rows * 4)
            yield Scratch(rows * round_up(head_dim, 32) * 4)


def _flash_splits(blocks: int, slots: int, key_blocks: int) -> int:
    """Return the number of parts of the keys: the fewest that fill the slots nearly as well as the best number does.

    Source: num_splits_heuristic.
    """
    if blocks >= 0.8 * slots:
        return 1
    evenness = {}
    for splits in range(1, min(128, slots, key_blocks) + 1):
        if splits == 1 or -(-key_blocks // splits) != -(-key_blocks // (splits - 1)):
            waves = blocks * splits / slots
            evenness[splits] = waves / -(-blocks * splits // slots)
    return next(splits for splits, value in evenness.items() if value >= 0.85 * max(evenness.values()))


@_rule_of(aten._scaled_dot_product_flash_attention_backward.default)
def flash_attention_backward(op, args, out, target: Target) -> Iterator[Scratch]:
    """Flash attention's backward pass: the softmax row sums and the fp32 query gradient, tokens rounded up to 128.

    Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp.
    """
    query = args[1]
    batch, heads, tokens, head_dim = query.shape
    rows = round_up(tokens, 128)
    yield Scratch(batch * heads * rows * 4)
    yield Scratch(batch * rows * heads * round_up(head_dim, 32) * 4)


@_rule_of(aten._scaled_dot_product_cudnn_attention_backward.default)
def cudnn_attention_backward(op, args, out, target: Target) -> Iterator[Scratch]:
    """The backward pass of cuDNN's attention: fp32 query gradient and softmax row sums, as its plans report."""
    query = args[1]
    yield Scratch(4 * query.numel() + 4 * query[..., 0].numel())


@_rule_of(aten.sum.dim_IntList, aten.mean.dim)
def reduction_scratch(op, args, out, target: Target) -> Iterator[Scratch]:
    """A sum over many rows, such as a bias gradient, is split over thread blocks that meet in global memory."""
    yield from _sum(args[0], args[1], target)


@_rule_of(aten.convolution_backward.default)
def convolution_backward(op, args, out, target: Target) -> Iterator[Scratch]:
    """cuDNN needs a contiguous gradient; the bias's is a sum over images and pixels of the gradient as it comes.

    Source: aten/src/ATen/native/Convolution.cpp and aten/src/ATen/native/cudnn/ConvShared.cpp.
    """
    grad, image = args[:2]
    if not grad.is_contiguous():
        yield Scratch(grad.nbytes, stage=0)
    if out[2] is not None and not _is_unrolled(image, target):
        yield from _sum(grad, [0, *range(2, grad.ndim)], target)


@_rule_of(aten.convolution_backward.default)
def convolution_layout(op, args, out, target: Target) -> Iterator[Scratch]:
    """cuDNN computes a weight's gradient in half precision from copies with channels last, padded to a multiple of 8.

    This is what its plans report on most cards from compute capability 8.0 on. Which plan it takes for other
    directions, types and cards, and with how much memory, follows no known rule.
    """
    if target.gpu.compute_capability >= (8, 0):
        grad, image, weight = args[:3]
        if image.dtype in (torch.bfloat16, torch.float16):
            numbers = sum(round_up(t.shape[1], 8) * t[:, 0].numel() for t in (grad, image, weight))
            yield Scratch(numbers * image.itemsize, stage=0)


@_rule_of(aten.convolution.default, aten.convolution_backward.default)
def unrolled_convolution(op, args, out, target: Target) -> Iterator[Scratch]:
    """cuDNN has no bf16 below compute capability 8.0: an image's patches are the columns of a matrix instead.

    Source: aten/src/ATen/native/Convolution.cpp and aten/src/ATen/native/cuda/ConvolutionMM2d.cu.
    """
    if op is aten.convolution.default and _is_unrolled(args[0], target):
        yield Scratch(args[1][0].nbytes * out[0, 0].numel())
    if op is aten.convolution_backward.default and _is_unrolled(args[1], target):
        yield Scratch(args[2][0].nbytes * args[0][0, 0].numel())


def _is_unrolled(image: Tensor, target: Target) -> bool:
    return image.dtype == torch.bfloat16 and target.gpu.compute_capability < (8, 0)


@_rule_of(aten._safe_softmax.default)
def safe_softmax(op, args, out, target: Target) -> Iterator[Scratch]:
    """The softmax of the math kernel searches for fully masked rows (aten/src/ATen/native/SoftMax.cpp)."""
    yield Scratch(out.numel())
    yield Scratch(out.numel() // out.shape[args[1]])


@_rule_of(aten.logsumexp.default)
def log_sum_exp(op, args, out, target: Target) -> Iterator[Scratch]:
    """The largest number of each row, and all numbers minus it (aten/src/ATen/native/ReduceOps.cpp)."""
    yield Scratch(out.nbytes)
    yield Scratch(args[0].nbytes)


@_rule_of(aten._foreach_norm.Scalar)
def foreach_norm(op, args, out, target: Target) -> Iterator[Scratch]:
    """Norms of many tensors: one number per 64 Ki numbers of the largest tensor, times the number of tensors.

    Source: aten/src/ATen/native/cuda/ForeachReduceOp.cu.
    """
    chunks = -(-max(tensor.numel() for tensor in args[0]) // 2**16)
    yield Scratch(4 * len(args[0]) * chunks, stage=0)


def _sum(tensor: Tensor, dims: list[int] | None, target: Target) -> Iterator[Scratch]:
    """Yield the partial results and semaphores of a sum over some dimensions, by default all."""
    sizes = reduction_scratch_bytes(tensor.shape, tensor.stride(), dims or range(tensor.ndim), target.gpu)
    yield from map(Scratch, sizes or ())
