"""CPU kernels of the training step: attention over stored and over narrow heads, GELU, LayerNorm and input batches.

They are C++ with OpenMP. The system's compiler builds them for this CPU when they are first called, in seconds, and
they are kept in the user's cache folder. Without a compiler the log says so, and the callers use PyTorch's operators,
which are slower. A result does not depend on the number of threads.
"""

import ctypes
import hashlib
import logging
import os
import shutil
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
SOURCES = ("attention.cpp", "gather.cpp", "gelu.cpp", "layer_norm.cpp", "render.cpp")
COMPILERS = ("g++", "c++")
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
    """Load the compiled kernels; None where they cannot be compiled."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        log.warning("the CPU's kernels need a C++ compiler (g++), there is none; PyTorch's operators are used, slower")
        return None
    try:
        library = ctypes.CDLL(str(_compiled(compiler)))
    except (subprocess.CalledProcessError, OSError, RuntimeError) as error:  # RuntimeError: no home folder
        reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        log.warning("the CPU's kernels could not be compiled, PyTorch's operators are used, slower: %s", reason)
        return None
    library.fptplus_kept_numbers.restype = ctypes.c_int64
    return library


def _compiled(compiler: str) -> Path:
    """Return the path of the kernels for this CPU and compiler, compiled into the cache folder if need be."""
    macros = subprocess.run(
        [compiler, *FLAGS, "-dM", "-E", "-x", "c++", os.devnull], check=True, capture_output=True, text=True
    ).stdout  # these macros name the compiler's version and the CPU's features
    content = [path.read_text() for path in sorted(HERE.glob("*.[ch]*"))]
    digest = hashlib.sha256("\0".join([macros, *FLAGS, *content]).encode()).hexdigest()
    path = _cache_folder() / f"cpu_kernels-{digest[:16]}.so"
    if not path.exists():
        log.info("compiling the CPU's kernels into %s", path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            sources = [str(HERE / name) for name in SOURCES]
            subprocess.run([compiler, *FLAGS, *sources, "-o", str(made)], check=True, capture_output=True, text=True)
            made.replace(path)
    return path


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fptplus"
