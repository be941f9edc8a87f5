"""Time per training step, and throughput in images per second (FPT+, Table II)."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class ThroughputReading:
    """Time of a training step with its data already on the device."""

    step_time_s: float
    """Median time of a step in seconds."""

    step_time_p10_s: float
    step_time_p90_s: float
    throughput_img_s: float
    """Batch size divided by the median step time."""


class WallClock:
    """Records moments on a processor that works in step with Python."""

    def __init__(self) -> None:
        self._marks_s: list[float] = []

    def mark(self) -> None:
        self._marks_s.append(time.perf_counter())

    def intervals_s(self) -> list[float]:
        """Return the seconds from each mark to the next."""
        return [after - before for before, after in zip(self._marks_s, self._marks_s[1:], strict=False)]


class CudaClock:
    """Records moments in the stream of a CUDA device, so that nothing waits between steps, as in training."""

    def __init__(self) -> None:
        self._marks: list[torch.cuda.Event] = []

    def mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def intervals_s(self) -> list[float]:
        """Return the seconds from each mark to the next; wait for the last (CUDA reports ms)."""
        self._marks[-1].synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in zip(self._marks, self._marks[1:], strict=False)]


def time_steps(
    take_step: Callable[[], object], *, batch_size: int, device: str, budget_s: float, min_steps: int, max_steps: int
) -> ThroughputReading:
    """Time steps that have been warmed up: min_steps, and as many more as the budget allows at their pace.

    Args:
        take_step: takes one step.
        batch_size: images per step.
        device: `cuda` is timed by events in its stream, anything else by the wall clock.
        budget_s: time for all steps, in seconds.
        min_steps, max_steps: bounds on the number of steps.
    """
    times_s = _times_s(take_step, device, min_steps)
    left_s = budget_s - sum(times_s)
    further = min(max_steps - min_steps, int(left_s / max(statistics.median(times_s), 1e-9)))
    if further > 0:
        times_s += _times_s(take_step, device, further)
    deciles = statistics.quantiles(times_s, n=10, method="inclusive") if len(times_s) > 1 else times_s
    median = statistics.median(times_s)
    return ThroughputReading(
        step_time_s=median,
        step_time_p10_s=deciles[0],
        step_time_p90_s=deciles[-1],
        throughput_img_s=batch_size / median,
    )


def _times_s(take_step: Callable[[], object], device: str, num_steps: int) -> list[float]:
    clock = CudaClock() if device == "cuda" else WallClock()
    clock.mark()
    for _ in range(num_steps):
        take_step()
        clock.mark()
    return clock.intervals_s()
