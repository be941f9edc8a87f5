"""Replay a trace through the simulated allocator: the peaks, and what the memory is for at that moment."""

from collections.abc import Iterator
from dataclasses import dataclass

from .allocator import Block, CachingAllocator, OutOfMemory
from .trace import KINDS, Allocation, Kind, Trace


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most memory that the last traced step has needed."""

    requested_bytes: int
    """What the tensors themselves add up to."""

    allocated_bytes: int
    """Blocks in use, as torch.cuda.max_memory_allocated counts them."""

    reserved_bytes: int
    """Segments, as torch.cuda.max_memory_reserved counts them."""

    by_kind: dict[Kind, int]
    """Allocated bytes of each kind at the allocated peak; they add up to allocated_bytes."""

    event_index: int
    """The event of the trace at which the allocated peak is reached."""

    num_segments: int


def replay(trace: Trace, capacity_bytes: int | None = None) -> Peak:
    """Run a trace's requests through an allocator of the given capacity.

    Raises:
        OutOfMemory: if the capacity does not hold them.
    """
    peak_index, split, allocator = 0, dict.fromkeys(KINDS, 0), CachingAllocator(capacity_bytes)
    for index, now in _states(trace, allocator):
        if index + 1 == trace.step_starts[-1]:
            allocator.reset_peaks()
        if index >= trace.step_starts[-1] and allocator.allocated.current > sum(split.values()):
            peak_index, split = index, dict(now)
    return Peak(
        requested_bytes=allocator.requested.peak,
        allocated_bytes=allocator.allocated.peak,
        reserved_bytes=allocator.reserved.peak,
        by_kind=split,
        event_index=peak_index,
        num_segments=allocator.num_segments,
    )


def fits(trace: Trace, capacity_bytes: int) -> bool:
    """Whether the traced steps run in so many bytes of segments."""
    try:
        replay(trace, capacity_bytes)
    except OutOfMemory:
        return False
    return True


def timeline(trace: Trace) -> list[dict[Kind, int]]:
    """Allocated bytes by kind after each event of the last step."""
    states = _states(trace, CachingAllocator())
    return [dict(now) for index, now in states if index >= trace.step_starts[-1]]


def alive_at(trace: Trace, event_index: int) -> list[Allocation]:
    """The allocations in use right after an event."""
    alive: dict[Allocation, None] = {}
    for event in trace.events[: event_index + 1]:
        if event.is_free:
            del alive[event.allocation]
        else:
            alive[event.allocation] = None
    return list(alive)


def _states(trace: Trace, allocator: CachingAllocator) -> Iterator[tuple[int, dict[Kind, int]]]:
    """After each event its index and the bytes allocated by kind; the dictionary is the same one each time."""
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
