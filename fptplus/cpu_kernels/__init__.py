"""CPU kernels of the training step: attention over stored and over narrow heads, GELU, LayerNorm and input batches.

They are C++ with OpenMP. The system's compiler builds them for this CPU when they are first called, in seconds, and
they are kept in the user's cache folder. Without a compiler the log says so, and the callers use PyTorch's operators,
which are slower. A result does not depend on the number of threads.
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
"""Number of each dtype in the enum `Type` of vectors.h."""

MAX_AXES = 5
_ARRAY = struct.Struct(f"{2 + 2 * MAX_AXES}q")
_NO_ARRAY = bytes(_ARRAY.size)

log = logging.getLogger(__name__)


def can_run_on(*tensors: Tensor) -> bool:
    """Return whether kernels take these tensors: on a CPU, in fp32, bf16, int8 or bytes; the first call compiles."""
    return all(part.device.type == "cpu" and part.dtype in TYPES for part in tensors) and _library() is not None


def run(name: str, *tensors: Tensor | None) -> None:
    """Call a kernel.

    Args:
        name: name of the kernel without its prefix.
        tensors: its arguments, of at most five axes, contiguous in the last dimension.
    """
    getattr(_library(), f"fptplus_{name}")(*map(_array, tensors), torch.get_num_threads())


def side_by_side(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy if it is not contiguous in its last dimension."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def room_to_keep(queries: int, tokens: int, like: Tensor) -> int:
    """Return how many 32-bit numbers attention keeps per head for the backward pass.

    Args:
        queries, tokens: how many of each the head has.
        like: a tensor (..., head_dim) of the result's dtype.
    """
    sizes = (queries, tokens, like.shape[-1], TYPES[like.dtype])
    return _library().fptplus_kept_numbers(*map(ctypes.c_int64, sizes))


def _array(tensor: Tensor | None) -> bytes:
    """Return a tensor as an `Array` of vectors.h: address, type, sizes and strides, these padded with zeros."""
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
