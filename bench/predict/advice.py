"""Which methods fit a GPU, the largest batch and resolution of each, and what would make the others fit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import combinations
from typing import Protocol

from bench.cards.gpus import Gpu, endless
from bench.cards.verdict import Word
from bench.cells.anatomy import Peak
from bench.cells.building import build_on
from bench.cells.config import CellConfig
from bench.emulate.fork import on_card
from bench.timing.estimate import StepEstimate
from bench.trace.replay import fits, replay
from fptplus import InvalidInput
from methods import FineTuning

from .emulated import estimate_of, how_it_fits, peak_of, run_out
from .prediction import card_of
from .predictor import Engine, falls_back, on_emulated_cards, on_processors, why_traced
from .traced import fits_within_contexts, trace_cell

LARGEST_BATCH = 4096
LARGEST_RES = 4096
"""Limit of the search; a larger answer is reported as this or more."""

REMEDIES: dict[str, tuple[str, str]] = {
    "attention": ("eager", "sdpa"),
    "precision": ("fp32", "bf16"),
    "checkpointing": ("none", "block"),
}
"""Changes that leave the method as it is, from and to; tried one at a time, then two, then all."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What one method can do on a GPU. Sizes are None if not even the smallest fits."""

    method: str
    fits: Word
    process_bytes: int
    headroom_bytes: int
    """Memory left on the GPU; negative if it does not fit."""

    largest_batch: int | None
    """Largest batch size at the resolution asked about."""

    largest_res: int | None
    """Largest resolution at the batch size asked about."""

    remedies: tuple[dict[str, str], ...]
    """Smallest sets of changes that make it fit; empty if it fits, or if nothing helps."""

    step: StepEstimate | None = None
    """Time and energy of a step; None if it does not fit, or nothing is known of the card's time."""


class Prober(Protocol):
    """Answers questions about any cell."""

    def reserved_bytes(self, cell: CellConfig) -> int:
        """Return what PyTorch reserves if it has as much memory as it takes."""

    def runs(self, cell: CellConfig) -> bool:
        """Whether the cell runs on its card, with the typical CUDA context of that card."""

    def fits(self, cell: CellConfig) -> Word:
        """Whether the cell fits its card, given the range of CUDA contexts."""

    def step(self, cell: CellConfig) -> StepEstimate | None:
        """Return the time and energy predicted for a step; None if they cannot be."""


class EmulatedProber:
    """Answers by PyTorch on the emulated card, each from a fresh process; models are built once."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._built: dict[CellConfig, FineTuning] = {}

    def _tuning(self, cell: CellConfig) -> FineTuning:
        key = replace(cell, batch_size=1, accumulation_steps=1, optimizer="adamw")
        if key not in self._built:
            self._built = {key: build_on("meta", key)[0]}  # only one is kept: the search stays with it for a while
        return self._built[key]

    def reserved_bytes(self, cell: CellConfig) -> int:
        return self._peak(cell).reserved_bytes

    def runs(self, cell: CellConfig) -> bool:
        return on_card(self._gpu, run_out, cell, self._tuning(cell)) is None

    def fits(self, cell: CellConfig) -> Word:
        return how_it_fits(cell, self._gpu, self._peak(cell))["fits"]

    def step(self, cell: CellConfig) -> StepEstimate | None:
        return on_card(endless(self._gpu), estimate_of, cell, self._gpu, self._tuning(cell))

    def _peak(self, cell: CellConfig) -> Peak:
        return on_card(endless(self._gpu), peak_of, cell, self._tuning(cell))


class TracedProber:
    """Answers by the model of PyTorch on meta tensors."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def reserved_bytes(self, cell: CellConfig) -> int:
        return replay(trace_cell(cell)).reserved_bytes

    def runs(self, cell: CellConfig) -> bool:
        return fits(trace_cell(cell), self._gpu.memory_bytes - self._gpu.context_bytes)

    def fits(self, cell: CellConfig) -> Word:
        return fits_within_contexts(trace_cell(cell), self._gpu)

    def step(self, cell: CellConfig) -> None:
        return None


def advise(cell: CellConfig, gpu: Gpu, patch_size: int, prober: Prober) -> Advice:
    """Find what the cell's method can do on a GPU.

    Args:
        cell: the method, model, resolution, batch size and axes asked about.
        gpu: the card, with the memory that may be used.
        patch_size: patch size of the model in pixels.
        prober: answers questions about cells.

    Raises:
        InvalidInput: if the CUDA context alone fills the memory.
    """
    if gpu.memory_bytes <= gpu.context_bytes:
        raise InvalidInput(
            f"gpu-memory must be more than the CUDA context's {gpu.context_bytes} bytes, got {gpu.memory_bytes}."
        )
    search = _Search(cell, gpu.memory_bytes - gpu.context_bytes, prober)
    reserved_bytes = search.reserved_bytes()
    word = prober.fits(cell)
    does_run = word == "yes" or (word == "maybe" and prober.runs(cell))
    return Advice(
        method=cell.method,
        fits=word,
        process_bytes=reserved_bytes + gpu.context_bytes,
        headroom_bytes=gpu.memory_bytes - reserved_bytes - gpu.context_bytes,
        largest_batch=search.largest_batch(does_run),
        largest_res=search.largest_res(does_run, patch_size),
        remedies=() if word == "yes" else tuple(_remedies(cell, prober)),
        step=prober.step(cell) if does_run else None,
    )


def advise_all(cells: list[CellConfig], patch_size: int, engine: Engine) -> Iterator[Advice]:
    """Yield advice on each cell in turn, worked out on all processors.

    Raises:
        InvalidInput: as in advise(), or if the engine does not run here.
    """
    if why_traced(engine) is None:
        answers = on_emulated_cards(advise_emulated, cells, patch_size)
    else:
        answers = on_processors(partial(advise_traced, patch_size=patch_size), cells)
    for cell, answer in zip(cells, answers, strict=True):
        if falls_back(cell, answer, engine):
            yield advise_traced(cell, patch_size)
        elif isinstance(answer, Exception):
            raise answer
        else:
            yield answer


def advise_emulated(cell: CellConfig, gpu: Gpu, patch_size: int) -> Advice:
    """Run advise() in a process that can fork others onto cards."""
    return advise(cell, gpu, patch_size, EmulatedProber(gpu))


def advise_traced(cell: CellConfig, patch_size: int) -> Advice:
    """Run advise() without an emulated device."""
    gpu = card_of(cell)
    return advise(cell, gpu, patch_size, TracedProber(gpu))


def _remedies(cell: CellConfig, prober: Prober) -> Iterator[dict[str, str]]:
    """Yield the smallest sets of changes that make a cell fit."""
    changes = {axis: after for axis, (before, after) in REMEDIES.items() if getattr(cell, axis) == before}
    for count in range(1, len(changes) + 1):
        found = False
        for chosen in combinations(changes, count):
            change = {axis: changes[axis] for axis in chosen}
            if prober.runs(replace(cell, **change)):
                found = True
                yield change
        if found:
            return


class _Search:
    """Finds the largest batch and resolution: it guesses along a polynomial and decides by asking."""

    def __init__(self, cell: CellConfig, capacity_bytes: int, prober: Prober) -> None:
        self._cell, self._capacity_bytes, self._prober = cell, capacity_bytes, prober
        self._reserved: dict[CellConfig, int] = {}

    def reserved_bytes(self, **changes) -> int:
        """Return what PyTorch reserves for the cell with some fields changed."""
        changed = replace(self._cell, **changes)
        if changed not in self._reserved:
            self._reserved[changed] = self._prober.reserved_bytes(changed)
        return self._reserved[changed]

    def largest_batch(self, asked_runs: bool) -> int | None:
        """Return the largest batch size that runs at the cell's resolution, a multiple of the accumulation steps."""
        unit = self._cell.accumulation_steps
        asked = self._cell.batch_size // unit
        points = sorted({max(1, asked // 4), asked, asked + max(2, asked // 4)})[-2:]
        sizes = [self.reserved_bytes(batch_size=point * unit) for point in points]
        lowest, limit = asked if asked_runs else 0, LARGEST_BATCH // unit
        guess = _last(lambda batch: _along(points, sizes, batch) <= self._capacity_bytes, lowest, limit)
        return self._decide(guess, lowest, limit, unit, "batch_size")

    def largest_res(self, asked_runs: bool, patch_size: int) -> int | None:
        """Return the largest resolution, a multiple of the patch size, that runs at the cell's batch size.

        Memory is a polynomial of second degree in the number of patches, due to the score matrices.
        """
        grid = self._cell.res // patch_size
        grids = sorted({max(2, grid // 2), grid, grid + 4}) if grid > 4 else [grid, grid + 4, grid + 8]
        patches = [side * side for side in grids]
        sizes = [self.reserved_bytes(res=side * patch_size) for side in grids]
        lowest, limit = grid if asked_runs else 0, LARGEST_RES // patch_size
        guess = _last(lambda side: _along(patches, sizes, side * side) <= self._capacity_bytes, lowest, limit)
        return self._decide(guess, lowest, limit, patch_size, "res")

    def _decide(self, guess: int, lowest: int, limit: int, unit: int, axis: str) -> int | None:
        """Correct a guess by asking, in ever larger steps away from it, then between the last two."""

        def runs(number: int) -> bool:
            if number <= lowest:
                return True
            try:
                return self._prober.runs(replace(self._cell, **{axis: number * unit}))
            except InvalidInput:  # too few tokens for the method
                return False

        low, high, stride = guess, min(guess, limit) + 1, 1
        while not runs(low):
            low, high, stride = max(lowest, low - stride), low, 2 * stride
        stride = 1
        while low == guess and high <= limit and runs(high):
            low, high, guess, stride = high, min(high + stride, limit + 1), high, 2 * stride
        return _last(runs, low, high - 1) * unit or None


def _along(points: Sequence[int], values: Sequence[int], at: int) -> float:
    """Evaluate the polynomial through some points (Lagrange) at another point."""
    total = Fraction(0)
    for point, value in zip(points, values, strict=True):
        weight = Fraction(value)
        for other in points:
            if other != point:
                weight *= Fraction(at - other, point - other)
        total += weight
    return float(total)


def _last(holds: Callable[[int], bool], lowest: int, limit: int) -> int:
    """Return the largest number up to a limit for which a condition holds.

    The condition holds at the lowest number, and fails for all numbers above one for which it fails.
    """
    low, high = lowest, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
