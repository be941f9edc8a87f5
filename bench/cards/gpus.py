"""GPUs by name: what CUDA reports of each card (`gpus.csv`), and where each figure comes from.

Memory is what CUDA can have, the "total capacity" of PyTorch's out-of-memory messages: less than the card's label, and
some tenths of a percent different from driver to driver; where several totals are known it is the newest driver's.
Limits that all cards of a compute capability share are in one table here.
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

_CATALOGUE = Path(__file__).with_name("gpus.csv")


@dataclass(frozen=True)
class SmLimits:
    """What one multiprocessor (SM) can hold, and one block of threads have of it."""

    max_threads_per_sm: int
    max_blocks_per_sm: int
    shared_bytes_per_sm: int
    shared_bytes_per_block_optin: int
    """What a kernel gets if it asks for more than `shared_bytes_per_block`."""

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
"""By compute capability: CUDA C++ Programming Guide, technical specifications (7.0 in that of CUDA 12)."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU model, or the one that is present. None where a figure is not known."""

    name: str
    """As on the command line."""

    title: str
    """As CUDA names it."""

    memory_bytes: int
    """Capacity for all processes, CUDA contexts included."""

    compute_capability: tuple[int, int]
    num_sms: int
    """Streaming multiprocessors; reductions spread over them."""

    max_threads_per_sm: int
    memory_source: str

    l2_bytes: int | None = None
    memory_bus_bits: int | None = None
    properties_source: str | None = None
    """Where the SM count, the L2 cache and the memory bus come from."""

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    """As CUDA counts it: two transfers a cycle."""

    clocks_source: str | None = None

    @property
    def limits(self) -> SmLimits:
        """Of an SM; of the nearest capability below where the table lacks the card's."""
        known = max((one for one in LIMITS if one <= self.compute_capability), default=min(LIMITS))
        return LIMITS[known]

    @property
    def memory_bytes_per_s(self) -> float | None:
        """Peak bandwidth of the memory."""
        if self.memory_bus_bits is None or self.memory_clock_mhz is None:
            return None
        return self.memory_bus_bits / 8 * 2 * self.memory_clock_mhz * 1e6

    @property
    def context(self) -> ContextSize:
        """CUDA context and loaded kernels of one process of the installed PyTorch."""
        import torch  # the catalogue is read without it

        return context_of(self, torch.version.cuda)

    @property
    def context_bytes(self) -> int:
        """What to reckon with for `context`."""
        return self.context.typical_bytes

    @property
    def context_source(self) -> str:
        """Where `context_bytes` comes from."""
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
"""The catalogue, by compute capability."""


def find_gpu(name: str) -> Gpu:
    """The GPU of a name: the one present if it has that name, else the catalogue's.

    Raises:
        InvalidInput: if there is none of that name.
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


def default_gpu() -> Gpu:
    """The GPU present, else the paper's."""
    return present_gpu() or GPUS[PAPER_GPU]


def present_gpu() -> Gpu | None:
    """The CUDA device of this machine, by its own figures and, if the catalogue lists it, its name there; or None."""
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
    """The name of a card, from what CUDA calls it: the catalogue's, else one made of the title."""
    names = {short_title(gpu.title): gpu.name for gpu in GPUS.values()}
    return names.get(short_title(title), title.lower().replace(" ", "-"))


def short_title(title: str) -> str:
    """A card's title without its vendor, which drivers before 465 leave out."""
    return title.removeprefix("NVIDIA ")


def has_kernels(gpu: Gpu, architectures: Iterable[str]) -> bool:
    """Whether a build of PyTorch has kernels that run on a card.

    Args:
        gpu: the card.
        architectures: those of the build, `torch.cuda.get_arch_list()`: sm_86 runs on 8.6 and later minor versions,
            compute_90 (portable code) on 9.0 and everything later.
    """
    for architecture in architectures:
        kind, digits = architecture.rstrip("abcdefghijklmnopqrstuvwxyz").rsplit("_", 1)
        built = (int(digits[:-1]), int(digits[-1]))
        if built <= gpu.compute_capability and (kind == "compute" or built[0] == gpu.compute_capability[0]):
            return True
    return False
