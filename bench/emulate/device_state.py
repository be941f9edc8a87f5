"""What the emulated device says of this process: whether it is there, and what it has been asked for."""

import ctypes
import os


def is_emulated() -> bool:
    """Whether this process's CUDA device is an emulated one: its times mean nothing, what kernels compute is zero."""
    return os.name == "posix" and hasattr(ctypes.CDLL(None), "emulated_device")


def kernel_launches() -> int:
    """Kernels that PyTorch has launched and calls of libraries that launch some, since the process began."""
    count = ctypes.CDLL(None).emulated_launches
    count.restype = ctypes.c_ulonglong
    return count()


def unanswered() -> str:
    """Functions that the device had no answer to, with commas; empty if it had one to all."""
    return _text("emulated_unanswered")


def unknown_workspaces() -> str:
    """Kinds of operators whose scratch memory inside cuDNN is not known, with commas; empty if there were none."""
    return _text("emulated_unknown_workspaces")


def load_planner() -> None:
    """Load the libraries that cuDNN plans with, for processes that are forked from this one; no card is asked for."""
    ctypes.CDLL(None).emulated_load_planner()


def _text(function: str) -> str:
    ask = getattr(ctypes.CDLL(None), function)
    ask.restype = ctypes.c_char_p
    return ask().decode()
