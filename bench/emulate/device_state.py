"""What the emulated device reports of this process: whether it is there, and what it was asked for."""

import ctypes
import os
from collections.abc import Callable
from functools import cache


def is_emulated() -> bool:
    """Whether this process's CUDA device is emulated: its times mean nothing, and its kernels compute zeros."""
    return os.name == "posix" and hasattr(ctypes.CDLL(None), "emulated_device")


def kernel_launches() -> int:
    """Return the number of kernel launches since the process began, with library calls that launch kernels."""
    return _launches()()


@cache
def _launches() -> Callable[[], int]:
    count = ctypes.CDLL(None).emulated_launches
    count.restype = ctypes.c_ulonglong
    return count


def unanswered() -> str:
    """Return the functions that the device had no answer to, separated by commas; empty if there were none."""
    return _text("emulated_unanswered")


def unknown_workspaces() -> str:
    """Return the kinds of operators whose scratch memory inside cuDNN is not known, separated by commas."""
    return _text("emulated_unknown_workspaces")


def load_planner() -> None:
    """Load the libraries that cuDNN plans with, for processes forked from this one; this asks for no card."""
    ctypes.CDLL(None).emulated_load_planner()


_MOST_PRODUCTS = 16
"""Products that are read at a time: those of one operator."""


class _Product(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("m", "n", "k", "batch")] + [
        ("type", ctypes.c_int32),
        ("compute_type", ctypes.c_int32),
    ]


@cache
def _products() -> tuple[Callable[[int], None], Callable[..., int], ctypes.Array]:
    """Return the recorder's switch, its reader and the buffer to read into."""
    library = ctypes.CDLL(None)
    library.emulated_products_read.restype = ctypes.c_size_t
    return library.emulated_products_enable, library.emulated_products_read, (_Product * _MOST_PRODUCTS)()


def recording_products(enable: bool) -> None:
    """Start or stop the recording of matrix products, and forget what was recorded."""
    _products()[0](int(enable))


def recorded_products() -> list[tuple[int, ...]]:
    """Return the matrix products since the last call, in order: m, n, k, batch, number type, compute type.

    The types are numbers of `cudaDataType` (the left factor's) and `cublasComputeType_t`.

    Raises:
        RuntimeError: if there are more than the operators of PyTorch have.
    """
    enable, read, found = _products()
    count = read(found, ctypes.c_size_t(_MOST_PRODUCTS))
    if count == 0:
        return []
    enable(1)
    if count > _MOST_PRODUCTS:
        raise RuntimeError(f"an operator had {count} matrix products, more than the {_MOST_PRODUCTS} that are read")
    return [(one.m, one.n, one.k, one.batch, one.type, one.compute_type) for one in found[:count]]


def _text(function: str) -> str:
    ask = getattr(ctypes.CDLL(None), function)
    ask.restype = ctypes.c_char_p
    return ask().decode()
