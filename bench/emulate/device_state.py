"""What the emulated device reports of this process: whether it is there, and what it was asked for."""

import ctypes
import os


def is_emulated() -> bool:
    """Whether this process's CUDA device is emulated: its times mean nothing, and its kernels compute zeros."""
    return os.name == "posix" and hasattr(ctypes.CDLL(None), "emulated_device")


def kernel_launches() -> int:
    """Return the number of kernel launches since the process began, with library calls that launch kernels."""
    count = ctypes.CDLL(None).emulated_launches
    count.restype = ctypes.c_ulonglong
    return count()


def unanswered() -> str:
    """Return the functions that the device had no answer to, separated by commas; empty if there were none."""
    return _text("emulated_unanswered")


def unknown_workspaces() -> str:
    """Return the kinds of operators whose scratch memory inside cuDNN is not known, separated by commas."""
    return _text("emulated_unknown_workspaces")


def load_planner() -> None:
    """Load the libraries that cuDNN plans with, for processes forked from this one; this asks for no card."""
    ctypes.CDLL(None).emulated_load_planner()


def _text(function: str) -> str:
    ask = getattr(ctypes.CDLL(None), function)
    ask.restype = ctypes.c_char_p
    return ask().decode()
