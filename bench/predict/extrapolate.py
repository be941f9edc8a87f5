"""Traces at sizes nobody traced: between batch sizes and resolutions only the bytes of the events change.

A tensor's bytes are a polynomial in the batch size (degree 1) and in the number of patches (degree 2: the score
matrices), so a few traces give all others. Where a size is rounded (tiles, kept tokens) the result is off by that
rounding, which is why whoever decides on it checks the decision with a true trace.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np

from .rules import reduction_scratch
from .trace import Event, Trace


class UnlikeTraces(ValueError):
    """The step does other things at one size than at another, as where it takes a few images at a time."""


class TraceFamily:
    """Traces of one cell along one axis.

    Args:
        points: values of the axis that were traced, one more than the degree of the polynomial.
        traces: theirs.

    Raises:
        UnlikeTraces: if the traces are not the same sequence of events.
    """

    def __init__(self, points: Sequence[int], traces: Sequence[Trace]) -> None:
        traces = [_without_reductions(trace) for trace in traces]
        if any(_sequence(one) != _sequence(other) for one, other in pairwise(traces)):
            raise UnlikeTraces("traces along one axis must be the same sequence of events")
        self._points = [Fraction(point) for point in points]
        self._model = traces[0]
        self._allocations = [event.allocation for event in self._model.events if not event.is_free]
        made = [[event.allocation.num_bytes for event in trace.events if not event.is_free] for trace in traces]
        self._num_bytes = np.array(made, dtype=np.float64)

    def at(self, point: int) -> Trace:
        """The trace at another value of the axis."""
        weights = np.array([float(self._weight(index, point)) for index in range(len(self._points))])
        sizes = np.maximum(0, np.ceil(weights @ self._num_bytes - 0.5)).astype(np.int64)
        resized = {old: replace(old, num_bytes=int(size)) for old, size in zip(self._allocations, sizes, strict=True)}
        events = [Event(resized[event.allocation], event.is_free) for event in self._model.events]
        return Trace(events=events, step_starts=self._model.step_starts)

    def _weight(self, index: int, point: int) -> Fraction:
        """Lagrange's weight of one traced point, exactly."""
        weight, own = Fraction(1), self._points[index]
        for other in self._points:
            if other != own:
                weight *= (point - other) / (own - other)
        return weight


def _sequence(trace: Trace) -> list[tuple[bool, str]]:
    return [(event.is_free, event.allocation.op) for event in trace.events]


def _without_reductions(trace: Trace) -> Trace:
    """The trace without the scratch of reductions, which come and go with the size."""
    start = trace.events[trace.step_starts[-1]]
    events = [event for event in trace.events if event.allocation.op != reduction_scratch.__name__]
    return Trace(events=events, step_starts=[events.index(start)])
