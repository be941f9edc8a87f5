"""What a process holds on a GPU beyond PyTorch's segments: the CUDA context and the kernels loaded into it.

`contexts.csv` lists what others measured. PyTorch's out-of-memory message states what the process uses (by NVML), what
PyTorch has allocated and what it has reserved but not allocated. The context is the rest, uncertain by the message's
rounding.

Two things decide its size: how kernels are loaded (one by one since CUDA 11.7, all at once before) and how many
multiprocessors (SMs) the card has, at a few MiB each.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median_high
from typing import TYPE_CHECKING

from bench.units import GIB, MIB

if TYPE_CHECKING:
    from .gpus import Gpu

NEWEST_CUDA = "13.0"
"""CUDA version assumed where PyTorch is built without CUDA."""

LAZY_SINCE = (11, 7)
"""First CUDA version that loads kernels when they are first used (github.com/pytorch/pytorch/issues/107667)."""

_FIGURES = Path(__file__).with_name("contexts.csv")


@dataclass(frozen=True, kw_only=True)
class ContextSize:
    """Known range of the context's size, and the size to plan with."""

    low_bytes: int
    typical_bytes: int
    high_bytes: int
    source: str


@dataclass(frozen=True, kw_only=True)
class ContextFigure:
    """Measured context of one process on one card."""

    card: str
    """Name of the card according to CUDA."""

    num_sms: int
    cuda: str
    """CUDA version that PyTorch was built with, as precisely as it is known: 12.8, 12, or "12 or 13"."""

    bytes: float
    rounding_bytes: float
    """Largest rounding error of the figure in bytes; its source states only a few digits."""

    source: str


def context_of(gpu: "Gpu", cuda_version: str | None = None) -> ContextSize:
    """Return the size of the CUDA context of one process.

    Args:
        gpu: the card.
        cuda_version: CUDA version that PyTorch is built with, such as "12.8"; None for the newest.

    Returns:
        The range over several processes on this card with this major version of CUDA; else with versions that load
        kernels in the same way; else scaled by the card's number of SMs. One process alone makes no range. The source
        says which of these it is.
    """
    cuda = cuda_version or NEWEST_CUDA
    alike = [figure for figure in context_figures() if _is_lazy(figure.cuda) == _is_lazy(cuda)]
    own = [figure for figure in alike if figure.card == gpu.title]
    same = [figure for figure in own if _majors(cuda) <= _majors(figure.cuda)]
    if len(same) > 1 and any(_majors(figure.cuda) == _majors(cuda) for figure in same):
        return _range(same, lambda figure: 1, _cite(same))
    if len(own) > 1:
        source = f"not enough known with this CUDA version; with {_versions(own)}: {_cite(own)}"
        return _range(own, lambda figure: 1, source)
    others = f"by its {gpu.num_sms} SMs from {len(alike)} processes on {len({one.card for one in alike})} cards"
    by_sms = _range(alike, lambda figure: gpu.num_sms / figure.num_sms, f"none known of this card; {others}")
    if not own:
        return by_sms
    return replace(by_sms, typical_bytes=int(own[0].bytes), source=f"{_cite(own)}; range {others}")


@cache
def context_figures() -> tuple[ContextFigure, ...]:
    """Return the measured figures."""
    with _FIGURES.open(newline="", encoding="utf-8") as file:
        return tuple(map(_figure, csv.DictReader(file)))


def _figure(row: dict[str, str]) -> ContextFigure:
    in_use, *reserved = (_amount(row[column]) for column in ("in_use", "allocated", "unallocated") if row[column])
    return ContextFigure(
        card=row["card"],
        num_sms=int(row["num_sms"]),
        cuda=row["cuda"],
        bytes=in_use[0] - sum(number for number, _ in reserved),
        rounding_bytes=in_use[1] + sum(rounding for _, rounding in reserved),
        source=row["source"],
    )


def _amount(text: str) -> tuple[float, float]:
    """Return the bytes of an amount such as 14.37 GiB, and half a unit of its last digit."""
    number, unit = text.split()
    factor = {"MiB": MIB, "GiB": GIB}[unit]
    decimals = len(number.partition(".")[2])
    return float(number) * factor, 0.5 * 10**-decimals * factor


def _range(figures: Sequence[ContextFigure], scale: Callable[[ContextFigure], float], source: str) -> ContextSize:
    """Return the range from smallest to largest, with the upper median as the typical size: too large is safer."""
    return ContextSize(
        low_bytes=int(min(scale(one) * (one.bytes - one.rounding_bytes) for one in figures)),
        typical_bytes=int(median_high(scale(one) * one.bytes for one in figures)),
        high_bytes=int(max(scale(one) * (one.bytes + one.rounding_bytes) for one in figures)),
        source=source,
    )


def _cite(figures: Sequence[ContextFigure]) -> str:
    return "; ".join(dict.fromkeys(figure.source for figure in figures))


def _versions(figures: Sequence[ContextFigure]) -> str:
    return ", ".join(dict.fromkeys(figure.cuda for figure in figures))


def _majors(cuda: str) -> set[int]:
    return {int(version.split(".")[0]) for version in cuda.split(" or ")}


def _is_lazy(cuda: str) -> bool:
    """Whether this CUDA version loads kernels one by one."""
    return tuple(map(int, cuda.split(" or ")[0].split("."))) >= LAZY_SINCE
