"""Memory that CUDA operators use beside their results: one small rule each, with its source, switched off one by one.

A rule looks at an operator call on meta tensors and says what a CUDA device would allocate during it. RULES is the
whole list; `nox -s bench` uses all, and `trace_cell(cell, rules=...)` any selection.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.units import MIB

from .allocator import round_up
from .devices import Gpu

aten = torch.ops.aten


@dataclass(frozen=True)
class Target:
    """What the step is predicted for."""

    gpu: Gpu
    torch_version: tuple[int, int]
    """Major and minor version of PyTorch."""


@dataclass(frozen=True)
class Scratch:
    """Memory that an operator takes beside its results."""

    num_bytes: int
    kept_as: str | None = None
    """Name under which the calling thread keeps it for good; None if the operator gives it back."""


Rule = Callable[[object, tuple, object, Target], Iterator[Scratch]]
"""Called with the operator, its positional arguments, its result and the target; all it yields is held at once."""

_GEMMS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.bmm.out,
    aten.bmm.dtype_out,
    aten.baddbmm.default,
}
_REDUCTIONS = {aten.sum.dim_IntList}


def cublas_workspace(op, args, out, target: Target) -> Iterator[Scratch]:
    """cuBLAS: 32 MiB from compute capability 9 on, else 8,519,680 B (aten/src/ATen/cuda/CublasHandlePool.cpp).

    Up to PyTorch 2.14 a thread's first matrix product allocates it for good, and autograd's thread has one of its own;
    from 2.15 on each product takes it and gives it back.
    """
    if op in _GEMMS:
        size = 32 * MIB if target.gpu.compute_capability >= (9, 0) else 8_519_680
        yield Scratch(size, kept_as="cublas" if target.torch_version < (2, 15) else None)


def cublaslt_workspace(op, args, out, target: Target) -> Iterator[Scratch]:
    """cuBLASLt: 1 MiB while a linear layer adds its bias in the product (aten/src/ATen/cuda/CUDABlas.cpp)."""
    if op is aten.addmm.default:
        yield Scratch(1 * MIB)


def efficient_attention_backward(op, args, out, target: Target) -> Iterator[Scratch]:
    """Memory-efficient attention's backward pass: fp32 accumulators of 64-row tiles, and the row sums of out·grad.

    Source: aten/src/ATen/native/transformers/cuda/mem_eff_attention/kernel_backward.h.
    """
    if op is aten._scaled_dot_product_efficient_attention_backward.default:
        query = args[1]
        batch, heads, tokens, head_dim = query.shape
        tiles = -(-tokens // 64) * -(-head_dim // 64)
        yield Scratch(batch * heads * tiles * 16_400)
        yield Scratch(batch * heads * tokens * 4)


def flash_attention_backward(op, args, out, target: Target) -> Iterator[Scratch]:
    """Flash attention's backward pass: the fp32 query gradient and the softmax row sums, tokens rounded up to 128.

    Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp.
    """
    if op is aten._scaled_dot_product_flash_attention_backward.default:
        query = args[1]
        batch, heads, tokens, head_dim = query.shape
        rows = round_up(tokens, 128)
        yield Scratch(batch * rows * heads * round_up(head_dim, 32) * 4)
        yield Scratch(batch * heads * rows * 4)


def reduction_scratch(op, args, out, target: Target) -> Iterator[Scratch]:
    """A sum over many rows, as of a bias gradient, is split over thread blocks that meet in global memory.

    Source: setReduceConfig and ReduceConfig::global_memory_size in aten/src/ATen/native/cuda/Reduce.cuh. Only sums over
    leading dimensions are modelled; those over trailing ones stay within a block.
    """
    if op in _REDUCTIONS and (shape := _leading_sum(args[0], args[1])) is not None:
        rows, columns = shape
        blocks, partials = _blocks_per_output(rows, columns, target.gpu)
        if blocks > 1:
            yield Scratch(4 * columns * blocks * partials)


def adamw_second_denominator(op, args, out, target: Target) -> Iterator[Scratch]:
    """AdamW (foreach) before PyTorch 2.1 made a second copy of the denominators, where later versions add in place.

    Source: torch/optim/adamw.py, `_multi_tensor_adamw`, of 2.0 and 2.1.
    """
    if op is aten._foreach_addcdiv_.ScalarList and target.torch_version < (2, 1):
        yield from (Scratch(tensor.nbytes) for tensor in args[2])


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        cublas_workspace,
        cublaslt_workspace,
        efficient_attention_backward,
        flash_attention_backward,
        reduction_scratch,
        adamw_second_denominator,
    )
}


def _leading_sum(tensor: Tensor, dims: list[int] | None) -> tuple[int, int] | None:
    """(rows summed, columns kept) of a sum over the leading dimensions of a contiguous tensor, else None."""
    summed = sorted(dim % tensor.ndim for dim in dims or range(tensor.ndim))
    if summed != list(range(len(summed))) or len(summed) == tensor.ndim or not tensor.is_contiguous():
        return None
    rows = tensor.shape[: len(summed)].numel()
    return rows, tensor.numel() // max(rows, 1)


def _blocks_per_output(rows: int, columns: int, gpu: Gpu) -> tuple[int, int]:
    """Thread blocks that share one output, and the partial sums each of them keeps for it."""
    vector = next(size for size in (4, 2, 1) if columns % size == 0)
    max_threads = 512 // vector
    width, height = (min(_power_of_two_below(n), max_threads) for n in (columns // vector, rows))
    block_width = min(width, 32)
    block_height = min(height, max_threads // block_width)
    block_width = min(width, max_threads // block_height)
    values_per_thread = rows
    if values_per_thread < min(block_height * 16, 256):
        return 1, 0  # the block's rows each take outputs of their own
    values_per_thread = -(-rows // block_height)
    grid = -(-(columns // vector) // block_width)
    target_grid = gpu.num_sms * (gpu.max_threads_per_sm // (block_width * block_height))
    if values_per_thread < 256 or grid > target_grid:
        return 1, 0
    blocks = max(min(-(-target_grid // grid), -(-values_per_thread // 16)), -(-values_per_thread // 256))
    return blocks, block_width * vector


def _power_of_two_below(number: int) -> int:
    """The largest power of two not above a number."""
    return 1 << (max(number, 1).bit_length() - 1)
