"""Scratch memory of a reduction on a CUDA device, whose thread blocks meet in global memory if outputs are few.

    tensor, dimensions ─ axes in the order of memory, merged where contiguous ─ block of threads ─ blocks an output
                                                                                └ > 1: partial results, semaphores

Source: TensorIterator (aten/src/ATen/TensorIterator.cpp) for the axes, setReduceConfig and ReduceConfig in
aten/src/ATen/native/cuda/Reduce.cuh for the rest. Names and constants are taken from there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from bench.cards.gpus import Gpu

ACCUMULATOR_BYTES = 4
"""Size of an accumulator: sums are accumulated in fp32, even in half precision."""

_MAX_THREADS, _WARP = 512, 32
_MIN_VALUES_PER_THREAD, _MAX_VALUES_PER_THREAD = 16, 256
_VECTOR = 4


@dataclass
class _Axis:
    """One axis of the iteration, with strides in elements; the output's stride is 0 if the axis is reduced."""

    size: int
    out_stride: int
    stride: int


def reduction_scratch_bytes(
    shape: Sequence[int], strides: Sequence[int], dims: Iterable[int], gpu: Gpu
) -> tuple[int, int] | None:
    """Return the bytes of a reduction's partial results and of its semaphores; None if no blocks share an output.

    Args:
        shape, strides: shape of the tensor, and its strides in elements.
        dims: dimensions that are reduced.
        gpu: the card that it runs on.
    """
    axes = _merged(_in_order_of_memory(_axes(shape, strides, {dim % len(shape) for dim in dims})))
    num_reduced = sum(axis.out_stride == 0 for axis in axes)
    inputs, outputs = (prod(axis.size for axis in part) for part in (axes[:num_reduced], axes[num_reduced:]))
    reduces_fastest = num_reduced == len(axes) or axes[0].stride < axes[num_reduced].stride
    fastest = axes[0 if reduces_fastest else num_reduced]
    vector, width, height = 1, *((inputs, outputs) if reduces_fastest else (outputs, inputs))
    if fastest.stride == 1 and reduces_fastest and width >= 128 and num_reduced == 1:
        width //= _VECTOR
    elif fastest.stride == 1 and not reduces_fastest:
        vector = _output_vector(axes, num_reduced)
        width //= vector
    block_width, block_height = _block(width, height, _MAX_THREADS // vector)

    values = -(-inputs // (block_width if reduces_fastest else 1))
    if values < min(block_height * 16, _MAX_VALUES_PER_THREAD):
        return None  # each of the block's rows has its own outputs
    values = -(-values // block_height)
    grid = -(-(outputs // vector) // (1 if reduces_fastest else block_width))
    target_grid = gpu.num_sms * (gpu.max_threads_per_sm // (block_width * block_height))
    if values < _MAX_VALUES_PER_THREAD or grid > target_grid:
        return None
    fewest, most = -(-values // _MAX_VALUES_PER_THREAD), -(-values // _MIN_VALUES_PER_THREAD)
    blocks = min(max(-(-target_grid // grid), fewest), most)
    if blocks == 1:
        return None
    partials = 1 if reduces_fastest else block_width * vector
    return ACCUMULATOR_BYTES * outputs * blocks * partials, 4 * grid


def _axes(shape: Sequence[int], strides: Sequence[int], reduced: set[int]) -> list[_Axis]:
    """Return the axes of a tensor, last first, with the strides of a contiguous output."""
    axes, out_stride = [], 1
    for dim in reversed(range(len(shape))):
        axes.append(_Axis(shape[dim], 0 if dim in reduced else out_stride, strides[dim]))
        out_stride *= 1 if dim in reduced else shape[dim]
    return axes


def _in_order_of_memory(axes: list[_Axis]) -> list[_Axis]:
    """Return reduced axes first, then by strides; an insertion sort, since not all axes can be compared."""
    for first in range(1, len(axes)):
        moving = first
        for other in reversed(range(first)):
            order = _compare(axes[other], axes[moving])
            if order < 0:
                break
            if order > 0:
                axes[other], axes[moving] = axes[moving], axes[other]
                moving = other
    return axes


def _compare(one: _Axis, other: _Axis) -> int:
    """Compare two axes: above 0 if they must be swapped, below 0 if not, 0 if nothing decides."""
    if (one.out_stride == 0) != (other.out_stride == 0):
        return 1 if other.out_stride == 0 else -1
    for ours, theirs in ((one.out_stride, other.out_stride), (one.stride, other.stride)):
        if ours and theirs:
            if ours != theirs:
                return -1 if ours < theirs else 1
            if one.size > other.size:
                return 1
    return 0


def _merged(axes: list[_Axis]) -> list[_Axis]:
    """Merge neighbouring axes if both tensors step through them evenly."""
    merged = [axes[0]]
    for axis in axes[1:]:
        last = merged[-1]
        if last.size == 1:
            merged[-1] = axis
        elif axis.size == 1:
            continue
        elif (last.size * last.out_stride, last.size * last.stride) == (axis.out_stride, axis.stride):
            last.size *= axis.size
        else:
            merged.append(axis)
    return merged


def _output_vector(axes: list[_Axis], fastest: int) -> int:
    """Return the outputs that a thread computes at a time; it divides the fastest axis's size and the other strides."""
    numbers = [axes[fastest].size, *(axis.stride for index, axis in enumerate(axes) if index != fastest)]
    return next(vector for vector in (_VECTOR, 2, 1) if all(number % vector == 0 for number in numbers))


def _block(width: int, height: int, max_threads: int) -> tuple[int, int]:
    """Return the width and height of a block of threads for the given amount of work."""
    width, height = (min(_power_of_two_below(number), max_threads) for number in (width, height))
    block_height = min(height, max_threads // min(width, _WARP))
    return min(width, max_threads // block_height), block_height


def _power_of_two_below(number: int) -> int:
    """Return the largest power of two not above a number."""
    return 1 << (max(number, 1).bit_length() - 1)
