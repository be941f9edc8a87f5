"""Power of a card during a step, and energy (docs/time.md).

A card with a process draws its awake power; each kernel adds to it what it is bound by, and never more than the limit:

    power = awake + (limit − awake) · share,   share = 1 for arithmetic, 0.75 for memory, 0.5 for launches

The shares are assumed: dense products throttle a card at its limit, copies do not reach it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from .peaks import CardPeaks
from .step_time import Bound, KernelTime

POWER_SHARES: dict[Bound, float] = {"arithmetic": 1.0, "memory": 0.75, "launches": 0.5}

SENSOR_S = 1.0
"""Time that NVML averages power over, on Ampere except GA100 and on later cards (nvmlDeviceGetPowerUsage)."""


@dataclass(frozen=True, kw_only=True)
class StepPower:
    """Power over repeated steps."""

    mean_w: float
    peak_w: float
    """Highest average over the sensor's time."""


def power_of(kernels: Sequence[KernelTime], step_s: float, card: CardPeaks) -> StepPower:
    """Return mean and peak power of a step.

    Args:
        kernels: kernels of the step, in order.
        step_s: time of the step; beyond its kernels the card waits.
        card: the card.
    """
    room_w = card.power_limit_w - card.awake_w
    energies = [kernel.seconds * POWER_SHARES[kernel.bound_by] for kernel in kernels]
    busy_s = sum(kernel.seconds for kernel in kernels)
    step_s = max(step_s, busy_s)
    mean_share = sum(energies) / step_s if step_s else 0.0
    peak_share = max(mean_share, _densest(energies, [kernel.seconds for kernel in kernels]))
    return StepPower(mean_w=card.awake_w + room_w * mean_share, peak_w=card.awake_w + room_w * peak_share)


def _densest(energies: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the largest share over a window of the sensor's time within the kernels; 0 if they are over before."""
    ends = list(accumulate(seconds))
    if not ends or ends[-1] < SENSOR_S:
        return 0.0
    sums, best, first = list(accumulate(energies, initial=0.0)), 0.0, 0
    for last, end in enumerate(ends):
        while end - ends[first] >= SENSOR_S:
            first += 1
        begin = ends[first] - seconds[first]
        if end - begin >= SENSOR_S:
            best = max(best, (sums[last + 1] - sums[first]) / (end - begin))
    return best
