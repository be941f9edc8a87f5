"""Functions of PyTorch itself on an emulated card, for tests of its model; a job's process finds them by name."""

from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.cells.building import build_on
from bench.cells.work import pinned_attention, work_without_values
from bench.predict.emulated import WARMUP_STEPS, read_peak

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def peak_of_a_step(cell):
    """The counters over one of the steps that all further ones are like."""
    tuning, _ = build_on("meta", cell)
    with pinned_attention(cell.attention):
        work = work_without_values(replace(cell, device="cuda"), tuning)
        for _ in range(WARMUP_STEPS):
            work()
        torch.cuda.reset_peak_memory_stats()
        work()
    return read_peak()


def counters_after_each(program):
    """Carry out a program of requests: (allocated, reserved, requested) bytes and segments after each step.

    Args:
        program: of steps, each bytes to allocate, or minus one and minus the index of the live block to free.

    Returns:
        the counters, up to the request that ran out of memory if one did; and the same counters' peaks.
    """
    live, seen = [], []
    for step in program:
        try:
            if step < 0:
                torch.cuda.caching_allocator_delete(live.pop(-1 - step))
            else:
                live.append(torch.cuda.caching_allocator_alloc(step))
        except torch.OutOfMemoryError:
            seen.append("out of memory")
            break
        seen.append(_counters("current"))
    return seen, _counters("peak")


def _counters(kind):
    stats = torch.cuda.memory_stats()
    sizes = ("allocated_bytes", "reserved_bytes", "requested_bytes")
    return *(stats[f"{name}.all.{kind}"] for name in sizes), stats[f"segment.all.{kind}"]


def attention_kernels(cases):
    """The kernel that scaled_dot_product_attention takes in each case, None where the one allowed does not run.

    Args:
        cases: (attention, dtype, head_dim, has_mask, has_gradient, num_queries) of each.
    """
    return [_attention_kernel(*case) for case in cases]


def _attention_kernel(attention, dtype, head_dim, has_mask, has_gradient, num_queries):
    query, key = (
        torch.empty(2, 3, tokens, head_dim, device="cuda", dtype=dtype, requires_grad=has_gradient)
        for tokens in (num_queries, 50)
    )
    mask = torch.empty(num_queries, 50, device="cuda", dtype=dtype) if has_mask else None
    allowed = [KERNELS[attention]] if attention in KERNELS else list(KERNELS.values())
    try:
        with sdpa_kernel(allowed):
            choice = torch._fused_sdp_choice(query, key, key, mask, 0.0, False)
    except RuntimeError:
        return None
    return next(name for name, kernel in KERNELS.items() if kernel.value == choice)


def attention_memory(cases):
    """The bytes of each block that attention takes forward and backward, in order.

    Args:
        cases: name of a kernel, type and (B, heads, N, head_dim) of queries, keys and values, which lie as
            (B, N, heads, head_dim).
    """
    return [_attention_memory(*case) for case in cases]


def _attention_memory(kernel, dtype, shape):
    batch, heads, tokens, head_dim = shape
    query, key, value = (
        torch.empty(batch, tokens, heads, head_dim, device="cuda", dtype=dtype).transpose(1, 2).requires_grad_()
        for _ in range(3)
    )
    grad = torch.empty_like(query)
    with _sizes_of_blocks() as sizes, sdpa_kernel(KERNELS[kernel]):
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        torch.autograd.grad(out, (query, key, value), grad)
    return sizes


@contextmanager
def _sizes_of_blocks():
    """A list that afterwards has the bytes of each block that was allocated inside, in order."""
    sizes = []
    torch.cuda.memory._record_memory_history("all", context=None)
    yield sizes
    history = torch.cuda.memory._snapshot()["device_traces"][torch.cuda.current_device()]
    torch.cuda.memory._record_memory_history(None)
    sizes.extend(entry["size"] for entry in history if entry["action"] == "alloc")


def sums(cases):
    """The bytes that each sum takes beside its result, in order.

    Args:
        cases: shape, strides and summed dimensions of each.
    """
    return [_sum(*case) for case in cases]


def _sum(shape, strides, dims):
    tensor = torch.empty_strided(shape, strides, device="cuda")
    with _sizes_of_blocks() as sizes:
        tensor.sum(dims)
    return sizes[1:]
