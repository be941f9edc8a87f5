"""Keep the memory of a training step on a CPU from one step to the next."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt (malloc.h)."""

KEPT_BYTES = 2**30
"""Bytes of free memory at the end of the heap that the process keeps."""

LARGEST_BYTES = 32 * 2**20
"""Size in bytes up to which tensors come from the heap; glibc's own adaptive threshold goes no higher."""


def keep_freed_memory() -> None:
    """Let this process keep the memory that a step frees for the next step, as PyTorch does on a GPU.

    Otherwise the C library gives it back to the kernel, which clears every page before the next step gets it: thousands
    of page faults per step. If the C library is not glibc, nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
