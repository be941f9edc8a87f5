"""GPUs by name: what the prediction has to know of the card, and where each number comes from.

Memory is what PyTorch can have, which is less than the card's label: the "total capacity" that its out-of-memory
messages state. The CUDA context (with the kernels it has loaded) is what a process holds beyond PyTorch's own segments.
"""

from dataclasses import dataclass, replace
from difflib import get_close_matches

from bench.probe import present_properties
from bench.units import GIB, MIB
from fptplus import InvalidInput

REPORTED = "PyTorch's out-of-memory messages in public issue reports"
ASSUMED = "assumed: nobody measured it for this suite"
PAPER_FIT = "fitted to Table I of the paper, not measured"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU model, or the one that is present."""

    name: str
    """As on the command line."""

    title: str
    """As CUDA names it, or a part of that."""

    memory_bytes: int
    """Capacity for all processes."""

    compute_capability: tuple[int, int]
    num_sms: int
    """Streaming multiprocessors; reductions spread over them."""

    max_threads_per_sm: int
    """By compute capability (CUDA C++ Programming Guide, technical specifications)."""

    context_bytes: int = 430 * MIB
    """CUDA context and loaded kernels of one process."""

    context_source: str = ASSUMED
    memory_source: str = REPORTED


def _gpu(name: str, title: str, memory_gib: float, capability: tuple[int, int], num_sms: int, **sources) -> Gpu:
    threads = {(7, 5): 1024, (8, 0): 2048, (8, 6): 1536, (8, 9): 1536, (9, 0): 2048, (10, 0): 2048}[capability]
    return Gpu(
        name=name,
        title=title,
        memory_bytes=int(memory_gib * GIB),
        compute_capability=capability,
        num_sms=num_sms,
        max_threads_per_sm=threads,
        **sources,
    )


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("t4", "Tesla T4", 14.75, (7, 5), 40),
        _gpu("rtx3060", "GeForce RTX 3060", 11.76, (8, 6), 28, memory_source=ASSUMED),
        _gpu("rtx3090", "GeForce RTX 3090", 23.69, (8, 6), 82),
        _gpu("rtx4090", "GeForce RTX 4090", 23.52, (8, 9), 128),
        _gpu("a6000", "RTX A6000", 47.54, (8, 6), 84, context_source=PAPER_FIT),
        _gpu("a100-40gb", "A100-SXM4-40GB", 39.39, (8, 0), 108, memory_source=ASSUMED),
        _gpu("a100-80gb", "A100-SXM4-80GB", 79.15, (8, 0), 108),
        _gpu("l40s", "L40S", 44.42, (8, 9), 142),
        _gpu("h100", "H100 80GB HBM3", 79.11, (9, 0), 132),
        _gpu("h200", "H200", 139.80, (9, 0), 132, memory_source=ASSUMED),
        _gpu("b200", "B200", 178.35, (10, 0), 148, memory_source=ASSUMED),
    )
}
"""SM counts from the vendor's data sheets; A100, H100 and H200 in their SXM form."""

PAPER_GPU = "a6000"


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
    known = next((gpu for gpu in GPUS.values() if gpu.title in properties.name), None)
    return replace(
        known or GPUS[PAPER_GPU],
        name=known.name if known else properties.name.lower().replace(" ", "-"),
        title=properties.name,
        memory_bytes=properties.memory_bytes,
        compute_capability=properties.compute_capability,
        num_sms=properties.num_sms,
        max_threads_per_sm=properties.max_threads_per_sm,
        memory_source="the device",
    )
