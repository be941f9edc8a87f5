"""Time per training step, and images per second (FPT+, Table II)."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class ThroughputReading:
    """Wall time of a training step, data already on the device."""

    step_time_s: float
    """Median."""

    step_time_p10_s: float
    step_time_p90_s: float
    throughput_img_s: float
    """Batch size over the median step time."""


def time_steps(
    take_step: Callable[[], object], *, batch_size: int, device: str, budget_s: float, min_steps: int, max_steps: int
) -> ThroughputReading:
    """Time steps that have been warmed up.

    Args:
        take_step: takes one step.
        batch_size: images a step.
        device: `cuda` waits for the device around each step.
        budget_s: no further step begins after it, once min_steps are taken.
        min_steps, max_steps: bounds on the number of steps.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times_s: list[float] = []
    began = time.perf_counter()
    while len(times_s) < max_steps and (len(times_s) < min_steps or time.perf_counter() - began < budget_s):
        wait()
        start = time.perf_counter()
        take_step()
        wait()
        times_s.append(time.perf_counter() - start)
    deciles = statistics.quantiles(times_s, n=10, method="inclusive")
    median = statistics.median(times_s)
    return ThroughputReading(
        step_time_s=median,
        step_time_p10_s=deciles[0],
        step_time_p90_s=deciles[-1],
        throughput_img_s=batch_size / median,
    )
