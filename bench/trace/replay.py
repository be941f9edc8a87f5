"""Replay a trace through the simulated allocator: the peaks, and what the memory is used for at that moment."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.cells.anatomy import KINDS, Allocation, Anatomy, Kind, Peak

from .allocator import Block, CachingAllocator, OutOfMemory
from .trace import Trace


@dataclass(frozen=True, kw_only=True)
class ReplayedPeak(Peak):
    """The peak, with its place in the trace."""

    event_index: int
    """Index of the event of the trace at which the allocated peak is reached."""

    num_segments: int


def replay(trace: Trace, capacity_bytes: int | None = None) -> ReplayedPeak:
    """Run a trace's requests through an allocator with the given capacity, and return the peak.

    Raises:
        OutOfMemory: if they exceed the capacity.
    """
    peak_index, split, allocator = 0, dict.fromkeys(KINDS, 0), CachingAllocator(capacity_bytes)
    for index, now in _states(trace, allocator):
        if index + 1 == trace.step_starts[-1]:
            allocator.reset_peaks()
        if index >= trace.step_starts[-1] and allocator.allocated.current > sum(split.values()):
            peak_index, split = index, dict(now)
    return ReplayedPeak(
        requested_bytes=allocator.requested.peak,
        allocated_bytes=allocator.allocated.peak,
        reserved_bytes=allocator.reserved.peak,
        by_kind=split,
        event_index=peak_index,
        num_segments=allocator.segments.current,
    )


def fits(trace: Trace, capacity_bytes: int) -> bool:
    """Whether the traced steps run within the given size of segments."""
    try:
        replay(trace, capacity_bytes)
    except OutOfMemory:
        return False
    return True


def replay_anatomy(trace: Trace) -> Anatomy:
    """Return the last traced step, allocation by allocation."""
    peak, start, phases = replay(trace), trace.step_starts[-1], {}
    for index, event in enumerate(trace.events[start:]):
        if not event.is_free:
            phases.setdefault(event.allocation.phase, index)
    return Anatomy(
        peak=peak,
        timeline=timeline(trace),
        peak_index=peak.event_index - start,
        phases=phases,
        alive=alive_at(trace, peak.event_index),
    )


def timeline(trace: Trace) -> list[dict[Kind, int]]:
    """Return the allocated bytes by kind after each event of the last step."""
    states = _states(trace, CachingAllocator())
    return [dict(now) for index, now in states if index >= trace.step_starts[-1]]


def alive_at(trace: Trace, event_index: int) -> list[Allocation]:
    """Return the allocations in use right after an event."""
    alive: dict[Allocation, None] = {}
    for event in trace.events[: event_index + 1]:
        if event.is_free:
            del alive[event.allocation]
        else:
            alive[event.allocation] = None
    return list(alive)


def _states(trace: Trace, allocator: CachingAllocator) -> Iterator[tuple[int, dict[Kind, int]]]:
    """Yield each event's index and the bytes allocated by kind after it; the dictionary is always the same object."""
    blocks: dict[Allocation, Block | None] = {}
    now = dict.fromkeys(KINDS, 0)
    for index, event in enumerate(trace.events):
        allocation = event.allocation
        if event.is_free:
            block = blocks.pop(allocation)
            now[allocation.kind] -= block.size if block else 0
            allocator.free(block)
        else:
            block = blocks[allocation] = allocator.allocate(allocation.num_bytes)
            now[allocation.kind] += block.size if block else 0
        yield index, now
