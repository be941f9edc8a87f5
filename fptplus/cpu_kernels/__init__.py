"""Kernels for a CPU: the training step's attention over stored and over narrow heads, GELU, LayerNorm, and its feeding.

They are C++ with OpenMP, compiled for the CPU at hand by the system's compiler where they are first called, in seconds,
and kept in the user's cache folder. Where there is no compiler the log says so, and the callers use PyTorch's operators
instead, which are slower. A result does not depend on the number of threads.
"""

import ctypes
import logging
import os
import struct
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from fptplus.build_cache import BuildFailed, built, cache_folder, find_compiler, run_tool

HERE = Path(__file__).parent
LIBRARY = "cpu_kernels.so"
SOURCES = ("attention.cpp", "gather.cpp", "gelu.cpp", "layer_norm.cpp", "render.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared", "-w")

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2, torch.uint8: 3, torch.bool: 3, torch.int64: 4}
"""`Type` of vectors.h."""

MAX_AXES = 5
_ARRAY = struct.Struct(f"{2 + 2 * MAX_AXES}q")
_NO_ARRAY = bytes(_ARRAY.size)

log = logging.getLogger(__name__)


def can_run_on(*tensors: Tensor) -> bool:
    """Whether kernels take tensors like these: on a CPU, in fp32, bf16, int8 or bytes; the first call compiles."""
    return all(part.device.type == "cpu" and part.dtype in TYPES for part in tensors) and _library() is not None


def run(name: str, *tensors: Tensor | None) -> None:
    """Call a kernel.

    Args:
        name: without its prefix.
        tensors: its arguments, of at most five axes, the numbers of the last one side by side.
    """
    getattr(_library(), f"fptplus_{name}")(*map(_array, tensors), torch.get_num_threads())


def side_by_side(tensor: Tensor) -> Tensor:
    """The tensor or, if the numbers of its last axis do not lie side by side, a copy in which they do."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def room_to_keep(queries: int, tokens: int, like: Tensor) -> int:
    """Numbers of 32 bits that attention of one head keeps for the backward pass.

    Args:
        queries, tokens: of the head.
        like: (..., head_dim), of the type of the result.
    """
    sizes = (queries, tokens, like.shape[-1], TYPES[like.dtype])
    return _library().fptplus_kept_numbers(*map(ctypes.c_int64, sizes))


def _array(tensor: Tensor | None) -> bytes:
    """`Array` of vectors.h: address, type, sizes and strides, the latter filled up with zeros."""
    if tensor is None:
        return _NO_ARRAY
    filling = (0,) * (MAX_AXES - tensor.ndim)
    return _ARRAY.pack(tensor.data_ptr(), TYPES[tensor.dtype], *tensor.shape, *filling, *tensor.stride(), *filling)


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be compiled."""
    try:
        library = ctypes.CDLL(str(_compiled() / LIBRARY))
    except (BuildFailed, OSError) as error:
        log.warning("the CPU's kernels could not be compiled, PyTorch's operators are used, slower: %s", error)
        return None
    library.fptplus_kept_numbers.restype = ctypes.c_int64
    return library


def _compiled() -> Path:
    """Folder of the kernels for this CPU, from the cache or compiled into it."""
    compiler = find_compiler()
    macros = run_tool(compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull)  # its version and what the CPU can do
    content = [path.read_bytes() for path in sorted(HERE.glob("*.[ch]*"))]
    return built("cpu_kernels", [macros, *FLAGS, *content], lambda folder: _compile(compiler, folder))


def _compile(compiler: str, folder: Path) -> None:
    log.info("compiling the CPU's kernels into %s", cache_folder())
    run_tool(compiler, *FLAGS, *(HERE / name for name in SOURCES), "-o", folder / LIBRARY)
