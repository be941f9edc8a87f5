"""Summing gradients of one tensor: autograd adds in place on a device, but never under a dispatch mode.

PyTorch's `InputBuffer::accumulate` reuses the first gradient's memory for the sum if nothing else holds it, but not
while any TorchDispatchMode is active. A tracer would therefore see one allocation too many for every residual
connection. This module restores the choice, by the same rule.
"""

from functools import cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_ADD = torch.ops.aten.add.Tensor


def sum_in_place(func, args: tuple, sole_holders: tuple[int, int]) -> Tensor | None:
    """Return the sum that autograd would form in the first operand's memory, or None if it would not.

    Args:
        func, args: an operator call seen by a dispatch mode during a backward pass.
        sole_holders: result of holders_of_a_sole_gradient, called outside any backward pass.
    """
    if func is not _ADD or torch.is_grad_enabled() or len(args) != 2 or not isinstance(args[1], Tensor):
        return None
    first, second = args
    if first.shape != second.shape or first.dtype != second.dtype or not _is_dense(first):
        return None
    if any(held > alone for held, alone in zip(holders(first), sole_holders, strict=True)):
        return None
    return first.add_(second)


def holders(tensor: Tensor) -> tuple[int, int]:
    """Return the numbers of references to a tensor and its storage, including those of the calling dispatch mode."""
    return tensor._use_count(), torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


def _is_dense(tensor: Tensor) -> bool:
    """Whether the tensor's elements fill a stretch of memory without gaps or overlaps."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


@cache
def holders_of_a_sole_gradient() -> tuple[int, int]:
    """Return the counts seen for a gradient that nobody else holds, found by making one."""

    class Probe(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is _ADD and not torch.is_grad_enabled():
                seen.append(_seen_from_a_callee(args))
            return func(*args, **(kwargs or {}))

    seen: list[tuple[int, int]] = []
    with torch.enable_grad(), torch.device("meta"):
        x = torch.empty(2, requires_grad=True)
        hidden = x * 2
        loss = (hidden.exp() + hidden.sin()).sum()
    with Probe():
        loss.backward()
    return seen[0]


def _seen_from_a_callee(args: tuple) -> tuple[int, int]:
    """Return the counts as sum_in_place sees them: from a function that the dispatch mode calls."""
    first, _ = args
    return holders(first)
