"""Compile the emulated device for an installed PyTorch, against the headers in its CUDA wheels.

    libemulated.so       preloaded: the CUDA runtime, cuBLAS, cuDNN, and an answer to whatever else PyTorch imports
    libcuda.so.1         the driver
    libnvidia-ml.so.1    NVML

A generated answer fails and prints its name on standard error, so that nothing seems done that is not.
"""

import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fptplus import InvalidInput
from fptplus.build_cache import BuildFailed, built, find_compiler, run_tool

HERE = Path(__file__).parent
DEVICE = HERE / "device"
APART = {"libcuda.so.1": "driver.cpp", "libnvidia-ml.so.1": "nvml.cpp"}
"""Libraries that are found by their names, with their sources; all other sources make the preloaded library."""

PRELOADED = "libemulated.so"

_REQUESTS = "librequests.so"

FLAGS = ("-O1", "-std=c++17", "-fPIC", "-w")
TORCH_LIBRARIES = ("libtorch_cuda.so", "libtorch_cuda_linalg.so", "libc10_cuda.so", "libtorch_python.so")
ANSWERED = ("cublas", "cudnn", "cusparse", "cusolver", "cufft", "curand", "nccl", "cupti", "cuFile", "cuda", "__cuda")
"""Prefixes of the libraries that get an answer; nvrtc compiles on any machine and is left as it is."""


class CannotEmulate(InvalidInput):
    """The emulated device does not run here; the message says why and how to fix it."""


@dataclass(frozen=True)
class TorchInstall:
    """An installation of PyTorch."""

    folder: Path
    """The folder `torch` in the site-packages of any environment."""

    version: str
    cuda: str

    @property
    def include_folders(self) -> list[Path]:
        """Return the folders with the headers of its CUDA wheels."""
        return sorted(self.folder.parent.glob("nvidia/*/include"))

    @property
    def runtime_libraries(self) -> list[Path]:
        """Return the CUDA runtime of its wheels, whose whole interface gets an answer."""
        return sorted(self.folder.parent.glob("nvidia/*/lib/libcudart.so.*"))


def find_torch(folder: Path | None = None) -> TorchInstall:
    """Return the PyTorch of a folder, or of this Python, without importing it.

    Raises:
        CannotEmulate: if it is not a Linux build with CUDA.
    """
    if folder is None:
        folder = Path(importlib.util.find_spec("torch").origin).parent
    if sys.platform != "linux":
        raise CannotEmulate(
            f"the emulated device needs Linux, this is {platform.system()}; run it in a Linux container."
        )
    facts = dict(re.findall(r"^(__version__|cuda)[^=]*= '([^']*)'", (folder / "version.py").read_text(), re.MULTILINE))
    if "cuda" not in facts or not (folder / "lib" / "libtorch_cuda.so").exists():
        raise CannotEmulate(
            f"the emulated device needs a PyTorch built for CUDA, {facts['__version__']} is not; "
            "install the ordinary build for Linux (pip install torch)."
        )
    return TorchInstall(folder, facts["__version__"], facts["cuda"])


def device_libraries(torch_folder: Path | None = None) -> Path:
    """Return the folder of the compiled device for a PyTorch; compile it in a few seconds if that was not done yet.

    Args:
        torch_folder: `torch` in the site-packages of any environment; this Python's by default.

    Raises:
        CannotEmulate: if it cannot be compiled here.
    """
    return _device_libraries(find_torch(torch_folder))


@cache
def _device_libraries(torch: TorchInstall) -> Path:
    try:
        compiler = find_compiler()
        if not torch.include_folders:
            raise BuildFailed("PyTorch's CUDA wheels are not installed next to it; install PyTorch by pip")
        made_from = _made_from(compiler, torch, (path for path in sorted(DEVICE.rglob("*")) if path.is_file()))
        return built(f"emulated-{torch.version}", made_from, lambda folder: _compile(compiler, torch, folder))
    except BuildFailed as error:
        raise CannotEmulate(f"the emulated device cannot be compiled: {error}.") from error


def requests_library() -> Path:
    """Return the library that listens to the allocator of this Python's PyTorch; compile it if that was not done yet.

    Raises:
        CannotEmulate: if it cannot be compiled here.
    """
    torch, source = find_torch(), HERE / "requests.cpp"
    include = [f"-I{path}" for path in (DEVICE / "shim", torch.folder / "include", *torch.include_folders)]
    link = [f"-L{torch.folder / 'lib'}", "-lc10", "-lc10_cuda"]

    def compile_it(folder: Path) -> None:
        flags = (*FLAGS, "-std=c++20")  # the last standard wins: PyTorch's headers need it
        run_tool(compiler, *flags, *include, "-shared", source, "-o", folder / _REQUESTS, *link)

    try:
        compiler = find_compiler()
        return built(f"requests-{torch.version}", _made_from(compiler, torch, [source]), compile_it) / _REQUESTS
    except BuildFailed as error:
        raise CannotEmulate(f"the listener of PyTorch's allocator cannot be compiled: {error}.") from error


def _made_from(compiler: str, torch: TorchInstall, sources: Iterable[Path]) -> list[str | bytes]:
    """Return everything that a compiled library depends on."""
    files = [path.read_bytes() for path in (Path(__file__), *sources)]
    return [
        *files,
        torch.version,
        torch.cuda,
        str(torch.folder),
        platform.machine(),
        compiler,
        run_tool(compiler, "--version"),
    ]


def why_not() -> str | None:
    """Return why the emulated device does not run here, in one sentence; None if it does."""
    try:
        device_libraries()
    except CannotEmulate as error:
        return str(error)
    return None


def _compile(compiler: str, torch: TorchInstall, folder: Path) -> None:
    work = folder.parent
    parts = {PRELOADED: [path for path in sorted(DEVICE.glob("*.cpp")) if path.name not in APART.values()]}
    parts |= {library: [DEVICE / name] for library, name in APART.items()}
    sources = [path for paths in parts.values() for path in paths]
    include = [f"-I{path}" for path in (DEVICE / "shim", DEVICE, *torch.include_folders)]
    objects = {source: work / f"{source.stem}.o" for source in sources}

    def compile_one(source: Path) -> None:
        run_tool(compiler, *FLAGS, *include, "-c", source, "-o", objects[source])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources))
    for library, paths in parts.items():
        compiled = [objects[path] for path in paths]
        answers = work / f"answers-{library}.cpp"
        answers.write_text(_answers(sorted(_unanswered(torch, library) - set(_names(compiled, "--defined-only")))))
        run_tool(
            compiler, *FLAGS, "-shared", f"-Wl,-soname,{library}", "-o", folder / library, *compiled, answers, "-ldl"
        )


def _unanswered(torch: TorchInstall, library: str) -> set[str]:
    """Return every name that a library could be asked for and that has no answer yet."""
    if library == PRELOADED:
        imported = set(_names([torch.folder / "lib" / name for name in TORCH_LIBRARIES], "--undefined-only", "-D"))
        imported |= set(_names(torch.runtime_libraries, "--defined-only", "-D"))
        return {name for name in imported if name.startswith(ANSWERED)}
    looked_up = (torch.folder / "lib" / "libc10_cuda.so").read_bytes()  # dlsym needs names, so they are strings in it
    if library == "libnvidia-ml.so.1":
        return {name.decode() for name in re.findall(rb"\0(nvml[A-Z]\w+)\0", looked_up)}
    found = {name.decode() for name in re.findall(rb"\0(cu[A-Z]\w+)\0", looked_up)}
    headers = (path / "cuda.h" for path in torch.include_folders)
    return found.union(*(re.findall(r"\b(cu[A-Z]\w+)\(", path.read_text()) for path in headers if path.exists()))


def _names(files: Iterable[Path], *options: str) -> Iterator[str]:
    """Yield the symbols of object files and libraries, without their versions."""
    for path in files:
        if path.exists():
            for line in run_tool("nm", *options, path).splitlines():
                if len(words := line.split()) >= 2 and words[-2] in "TWBDRVUuwi":
                    yield words[-1].partition("@")[0]


def _answers(names: list[str]) -> str:
    """Return the source of functions that fail under the given names; those that return a text return one."""
    lines = ['extern "C" void emulated_no_answer(const char*);', 'extern "C" {']
    for name in names:
        if re.search(r"Get(Error|Status|LastError)\w*(String|Name)|ErrorString|ErrorName|GetLastError", name):
            lines.append(f'const char* {name}() {{ return "the emulated device has no answer"; }}')
        else:
            lines.append(f'int {name}() {{ emulated_no_answer("{name}"); return 999; }}')
    return "\n".join([*lines, "}", ""])
