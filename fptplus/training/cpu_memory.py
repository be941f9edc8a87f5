"""Memory of a training step on a CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt (malloc.h)."""

KEPT_BYTES = 2**30
"""Free memory at the end of the heap that the process keeps."""

LARGEST_BYTES = 32 * 2**20
"""Tensors up to this size are taken from the heap, which is the most that glibc lets itself learn."""


def keep_freed_memory() -> None:
    """Let this process keep the memory that a step frees, for the next step, as PyTorch does with a GPU's.

    The C library would give it back to the kernel, which clears every page of it before the next step has it: thousands
    of page faults a step. Where the C library is not glibc, nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
