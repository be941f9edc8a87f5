"""GPUs by name: what CUDA reports of each card (`gpus.csv`), and where each figure comes from.

Memory is what CUDA can use, the "total capacity" of PyTorch's out-of-memory messages. It is less than the card's label
says, and differs by some tenths of a percent between drivers; where several totals are known, the newest driver's is
listed. Limits that all cards of a compute capability share are in one table here.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from fptplus.errors import InvalidInput

from .contexts import ContextSize, context_of
from .probe import present_properties

PAPER_GPU = "a6000"
KIB = 2**10
_ENDLESS_BYTES = 2**42

_CATALOGUE = Path(__file__).with_name("gpus.csv")


@dataclass(frozen=True)
class SmLimits:
    """Limits of one multiprocessor (SM), and of one block of threads on it."""

    max_threads_per_sm: int
    max_blocks_per_sm: int
    shared_bytes_per_sm: int
    shared_bytes_per_block_optin: int
    """Shared memory of a block whose kernel asks for more than `shared_bytes_per_block`."""

    shared_bytes_per_block: int = 48 * KIB
    registers_per_sm: int = 64 * KIB
    registers_per_block: int = 64 * KIB


LIMITS: dict[tuple[int, int], SmLimits] = {
    (7, 0): SmLimits(2048, 32, 96 * KIB, 96 * KIB),
    (7, 5): SmLimits(1024, 16, 64 * KIB, 64 * KIB),
    (8, 0): SmLimits(2048, 32, 164 * KIB, 163 * KIB),
    (8, 6): SmLimits(1536, 16, 100 * KIB, 99 * KIB),
    (8, 7): SmLimits(1536, 16, 164 * KIB, 163 * KIB),
    (8, 9): SmLimits(1536, 24, 100 * KIB, 99 * KIB),
    (9, 0): SmLimits(2048, 32, 228 * KIB, 227 * KIB),
    (10, 0): SmLimits(2048, 32, 228 * KIB, 227 * KIB),
    (11, 0): SmLimits(1536, 24, 228 * KIB, 227 * KIB),
    (12, 0): SmLimits(1536, 24, 100 * KIB, 99 * KIB),
}
"""Limits by compute capability: CUDA C++ Programming Guide, technical specifications (7.0: edition for CUDA 12)."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU model, or the GPU of this machine. A figure that is not known is None."""

    name: str
    """Name on the command line."""

    title: str
    """Name of the card according to CUDA."""

    memory_bytes: int
    """Capacity in bytes for all processes, CUDA contexts included."""

    compute_capability: tuple[int, int]
    num_sms: int
    """Number of streaming multiprocessors; reductions are spread over them."""

    max_threads_per_sm: int
    memory_source: str

    l2_bytes: int | None = None
    memory_bus_bits: int | None = None
    properties_source: str | None = None
    """Source of the SM count, the L2 cache and the memory bus."""

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    """Memory clock as CUDA counts it, with two transfers per cycle."""

    clocks_source: str | None = None

    @property
    def limits(self) -> SmLimits:
        """The limits of an SM; the nearest lower capability's if the card's own is not in the table."""
        known = max((one for one in LIMITS if one <= self.compute_capability), default=min(LIMITS))
        return LIMITS[known]

    @property
    def memory_bytes_per_s(self) -> float | None:
        """Peak bandwidth of the memory in bytes per second."""
        if self.memory_bus_bits is None or self.memory_clock_mhz is None:
            return None
        return self.memory_bus_bits / 8 * 2 * self.memory_clock_mhz * 1e6

    @property
    def context(self) -> ContextSize:
        """CUDA context and loaded kernels of one process with the installed PyTorch."""
        import torch  # the catalogue can be read without it

        return context_of(self, torch.version.cuda)

    @property
    def context_bytes(self) -> int:
        """Size of `context` to plan with, in bytes."""
        return self.context.typical_bytes

    @property
    def context_source(self) -> str:
        """Source of `context_bytes`."""
        return self.context.source


def _catalogue() -> Iterator[Gpu]:
    with _CATALOGUE.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield _gpu(row)


def _gpu(row: dict[str, str]) -> Gpu:
    major, minor = map(int, row["compute_capability"].split("."))
    numbers = ("num_sms", "memory_bytes", "l2_bytes", "memory_bus_bits", "sm_clock_mhz", "memory_clock_mhz")
    texts = ("name", "title", "memory_source", "properties_source", "clocks_source")
    return Gpu(
        compute_capability=(major, minor),
        max_threads_per_sm=LIMITS[major, minor].max_threads_per_sm,
        **{column: int(row[column]) if row[column] else None for column in numbers},
        **{column: row[column] for column in texts},
    )


GPUS: dict[str, Gpu] = {gpu.name: gpu for gpu in _catalogue()}
"""The catalogue by name, in the order of compute capability."""


def find_gpu(name: str) -> Gpu:
    """Return the GPU of this machine if it has the given name, else the catalogue's.

    Raises:
        InvalidInput: if there is no GPU of that name.
    """
    present = present_gpu()
    if present is not None and present.name == name:
        return present
    if name not in GPUS:
        near = get_close_matches(name.lower(), GPUS, n=1)
        raise InvalidInput(
            f"gpu must be one of {', '.join(GPUS)}, got {name!r}" + (f"; did you mean {near[0]}?" if near else ".")
        )
    return GPUS[name]


def listed_gpu(name: str) -> Gpu:
    """Return the catalogue's GPU of a name, without asking for the one that is present unless the catalogue lacks it.

    Raises:
        InvalidInput: if there is none of that name.
    """
    return GPUS.get(name) or find_gpu(name)


def limited(gpu: Gpu, memory_bytes: int | None) -> Gpu:
    """Return a GPU that may use no more memory than this; the GPU itself if None."""
    return gpu if memory_bytes is None else replace(gpu, memory_bytes=memory_bytes)


def endless(gpu: Gpu) -> Gpu:
    """Return a GPU that holds whatever a step takes."""
    return limited(gpu, _ENDLESS_BYTES)


def default_gpu() -> Gpu:
    """Return this machine's GPU, or the paper's if there is none."""
    return present_gpu() or GPUS[PAPER_GPU]


def present_gpu() -> Gpu | None:
    """Return this machine's CUDA device, or None.

    The figures are those that it reports; the name is the catalogue's if it is listed there.
    """
    if (properties := present_properties()) is None:
        return None
    own = {
        "memory_bytes": properties.memory_bytes,
        "compute_capability": properties.compute_capability,
        "num_sms": properties.num_sms,
        "max_threads_per_sm": properties.max_threads_per_sm,
        "memory_source": "the device",
    }
    name = card_name(properties.name)
    return replace(GPUS[name], **own) if name in GPUS else Gpu(name=name, title=properties.name, **own)


def card_name(title: str) -> str:
    """Return a card's name in the catalogue for CUDA's title, or a name made of the title."""
    names = {short_title(gpu.title): gpu.name for gpu in GPUS.values()}
    return names.get(short_title(title), title.lower().replace(" ", "-"))


def short_title(title: str) -> str:
    """Return a card's title without its vendor, which drivers before 465 leave out."""
    return title.removeprefix("NVIDIA ")


def has_kernels(gpu: Gpu, architectures: Iterable[str]) -> bool:
    """Whether a build of PyTorch has kernels that run on a card.

    Args:
        gpu: the card.
        architectures: architectures of the build, see `torch.cuda.get_arch_list()`. sm_86 runs on 8.6 and later minor
            versions, compute_90 (portable code) on 9.0 and everything later.
    """
    for architecture in architectures:
        kind, digits = architecture.rstrip("abcdefghijklmnopqrstuvwxyz").rsplit("_", 1)
        built = (int(digits[:-1]), int(digits[-1]))
        if built <= gpu.compute_capability and (kind == "compute" or built[0] == gpu.compute_capability[0]):
            return True
    return False
