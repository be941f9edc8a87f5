"""Which method fits a GPU, how large a batch and a resolution it could have, and what would make it fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

from fptplus import InvalidInput

from .config import CellConfig
from .predict.devices import Gpu
from .predict.extrapolate import TraceFamily, UnlikeTraces
from .predict.predictor import trace_cell
from .predict.replay import fits, replay
from .predict.trace import Trace
from .processors import on_all_processors

LARGEST_BATCH = 4096
LARGEST_RES = 4096
"""Where the search ends; a larger answer is reported as this or more."""

REMEDIES: dict[str, tuple[str, str]] = {
    "attention": ("eager", "sdpa"),
    "precision": ("fp32", "bf16"),
    "checkpointing": ("none", "block"),
}
"""What can be changed without changing the method, from and to; tried one, then two, then all at a time."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What one method can do on a GPU. Sizes are None where not even the smallest fits."""

    method: str
    fits: bool
    process_bytes: int
    headroom_bytes: int
    """Memory left on the GPU; negative if it does not fit."""

    largest_batch: int | None
    """At the asked resolution."""

    largest_res: int | None
    """At the asked batch size."""

    remedies: tuple[dict[str, str], ...]
    """The smallest sets of changes that make it fit; empty if it fits, or if nothing helps."""


def advise(cell: CellConfig, gpu: Gpu, patch_size: int) -> Advice:
    """Ask the predictor what the cell's method can do on a GPU.

    Args:
        cell: the method, model, resolution, batch size and axes asked about.
        gpu: the card, with the memory that may be used.
        patch_size: of the model, in pixels.

    Raises:
        InvalidInput: if the CUDA context alone fills the memory.
    """
    if (capacity_bytes := gpu.memory_bytes - gpu.context_bytes) <= 0:
        raise InvalidInput(
            f"gpu-memory must be more than the CUDA context's {gpu.context_bytes} bytes, got {gpu.memory_bytes}."
        )
    search = _Search(cell, capacity_bytes)
    asked = search.trace()
    process_bytes = replay(asked).reserved_bytes + gpu.context_bytes
    does_fit = fits(asked, capacity_bytes)
    return Advice(
        method=cell.method,
        fits=does_fit,
        process_bytes=process_bytes,
        headroom_bytes=gpu.memory_bytes - process_bytes,
        largest_batch=search.largest_batch(does_fit),
        largest_res=search.largest_res(does_fit, patch_size),
        remedies=() if does_fit else tuple(_remedies(cell, capacity_bytes)),
    )


def advise_all(cells: list[CellConfig], gpu: Gpu, patch_size: int) -> Iterator[Advice]:
    """Advice on each cell in turn, worked out on all processors."""
    return on_all_processors(partial(advise, gpu=gpu, patch_size=patch_size), cells)


def _remedies(cell: CellConfig, capacity_bytes: int) -> Iterator[dict[str, str]]:
    """The smallest sets of changes that make a cell fit."""
    changes = {axis: after for axis, (before, after) in REMEDIES.items() if getattr(cell, axis) == before}
    for count in range(1, len(changes) + 1):
        found = False
        for chosen in combinations(changes, count):
            change = {axis: changes[axis] for axis in chosen}
            if fits(trace_cell(replace(cell, **change)), capacity_bytes):
                found = True
                yield change
        if found:
            return


class _Search:
    """Finds the largest batch and resolution: guesses along extrapolated traces, decides by true ones."""

    def __init__(self, cell: CellConfig, capacity_bytes: int) -> None:
        self._cell, self._capacity_bytes = cell, capacity_bytes
        self._traces: dict[CellConfig, Trace] = {}

    def trace(self, **changes) -> Trace:
        """The true trace of the cell with some fields changed."""
        changed = replace(self._cell, **changes)
        if changed not in self._traces:
            self._traces[changed] = trace_cell(changed)
        return self._traces[changed]

    def largest_batch(self, asked_fits: bool) -> int | None:
        """The largest batch size that fits at the cell's resolution."""
        points = sorted({2, max(4, self._cell.batch_size)})
        traces = [self.trace(batch_size=point) for point in points]
        lowest = self._cell.batch_size if asked_fits else 0
        try:
            family = TraceFamily(points, traces)
            guess = _last(lambda batch: self._fits(family.at(batch)), lowest, LARGEST_BATCH)
        except UnlikeTraces:  # then memory grows nearly along a line
            first, second = (replay(trace).reserved_bytes for trace in traces)
            room = (self._capacity_bytes - first) * (points[1] - points[0]) // max(second - first, 1)
            guess = min(max(points[0] + room, lowest), LARGEST_BATCH)
        return self._decide(guess, lowest, LARGEST_BATCH, 1, "batch_size")

    def largest_res(self, asked_fits: bool, patch_size: int) -> int | None:
        """The largest resolution, a multiple of the patch size, that fits at the cell's batch size."""
        grid = self._cell.res // patch_size
        grids = sorted({max(2, grid // 2), grid, grid + 4}) if grid > 4 else [grid, grid + 4, grid + 8]
        family = TraceFamily([g * g for g in grids], [self.trace(res=g * patch_size) for g in grids])
        lowest = grid if asked_fits else 0
        guess = _last(lambda side: self._fits(family.at(side * side)), lowest, LARGEST_RES // patch_size)
        return self._decide(guess, lowest, LARGEST_RES // patch_size, patch_size, "res")

    def _fits(self, trace: Trace) -> bool:
        return fits(trace, self._capacity_bytes)

    def _decide(self, guess: int, lowest: int, limit: int, unit: int, axis: str) -> int | None:
        """Correct a guess by true traces, in ever larger steps away from it, then between the last two."""

        def truly_fits(number: int) -> bool:
            if number <= lowest:
                return True
            try:
                return self._fits(self.trace(**{axis: number * unit}))
            except InvalidInput:  # too few tokens for the method
                return False

        low, high, stride = guess, min(guess, limit) + 1, 1
        while not truly_fits(low):
            low, high, stride = max(lowest, low - stride), low, 2 * stride
        stride = 1
        while low == guess and high <= limit and truly_fits(high):
            low, high, guess, stride = high, min(high + stride, limit + 1), high, 2 * stride
        return _last(truly_fits, low, high - 1) * unit or None


def _last(holds: Callable[[int], bool], lowest: int, limit: int) -> int:
    """The largest number up to a limit for which a falling condition holds; it holds at the lowest."""
    low, high = lowest, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
