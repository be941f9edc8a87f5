"""The peak of a trace, and what the memory is for at that moment."""

from dataclasses import dataclass

from .trace import KINDS, Kind, Trace

BLOCK_BYTES = 512
"""The CUDA caching allocator hands out multiples of this."""


@dataclass(frozen=True)
class Peak:
    """The moment of the last traced step with the most memory allocated."""

    allocated_bytes: int
    by_kind: dict[Kind, int]
    """Bytes of each kind at that moment; they add up to allocated_bytes."""


def allocated_peak(trace: Trace) -> Peak:
    """Replay the events and find the peak of the last step, every block rounded as the allocator rounds it."""
    now = dict.fromkeys(KINDS, 0)
    total, peak = 0, Peak(0, dict(now))
    for index, event in enumerate(trace.events):
        size = rounded(event.allocation.num_bytes)
        signed = -size if event.is_free else size
        now[event.allocation.kind] += signed
        total += signed
        if index >= trace.step_starts[-1] and total > peak.allocated_bytes:
            peak = Peak(total, dict(now))
    return peak


def rounded(num_bytes: int) -> int:
    """Size of the block that a request gets; even an empty one takes none."""
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES
