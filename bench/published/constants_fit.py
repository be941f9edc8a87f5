"""Fit the constants of the time model on half of the published throughputs.

A dozen lines of Levenberg-Marquardt stand here because SciPy, which has it, is not needed for anything else.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bench.cards.gpus import GPUS
from bench.timing.operations import Operation, StepWork
from bench.timing.peaks import CardPeaks, card_peaks
from bench.timing.step_time import CONSTANTS, TimeConstants, time_of

from .throughputs import Throughput

FITTED = {
    "bandwidth_share": (0.5, 1.0),
    "tile_penalty": (0.0, 60.0),
    "depth_overhead": (0.0, 400.0),
    "attention_share": (0.2, 1.0),
}
"""Names and bounds of the constants that are fitted; no traffic is faster than the memory's peak."""

_TOLERANCE = 0.05
"""Error of a row in logarithms beyond which it counts less (soft L1)."""


def fitted_constants(rows: Sequence[Throughput], works: Sequence[StepWork]) -> TimeConstants:
    """Return the constants that bring the logarithms of predicted times closest to those measured.

    Args:
        rows: measured rows of the half to fit on.
        works: what their steps do.
    """
    counted = [_counted(work) for work in works]
    cards = [card_peaks(GPUS[row.gpu]) for row in rows]
    low, high = np.array(list(FITTED.values())).T

    def errors(values: np.ndarray) -> np.ndarray:
        constants = _with(values)
        times = [_seconds(*pair, constants) for pair in zip(counted, cards, strict=True)]
        return np.array([math.log(1e3 * t / row.step_time_ms) for t, row in zip(times, rows, strict=True)])

    start = np.array([getattr(CONSTANTS, name) for name in FITTED])
    return _with(_least(errors, np.clip(start, low, high), low, high))


def _with(values: np.ndarray) -> TimeConstants:
    return replace(CONSTANTS, **dict(zip(FITTED, map(float, values), strict=True)))


def _counted(work: StepWork) -> Counter[Operation]:
    """Count operations that take the same time."""
    return Counter(replace(operation, phase="", module="") for operation in work.operations)


def _seconds(counted: Counter[Operation], card: CardPeaks, constants: TimeConstants) -> float:
    return sum(times * time_of(operation, card, constants).seconds for operation, times in counted.items())


def _least(
    errors: Callable[[np.ndarray], np.ndarray], values: np.ndarray, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Return the values within bounds where the errors are least, by Levenberg-Marquardt with soft L1 weights."""
    damping, found = 1e-2, errors(values)
    for _ in range(30):
        steps = np.where(values + 1e-3 * (high - low) <= high, 1e-3, -1e-3) * (high - low)
        slopes = np.stack([(errors(values + step) - found) / step.sum() for step in np.diag(steps)], axis=1)
        weights = (1 + (found / _TOLERANCE) ** 2) ** -0.25
        scaled, target = slopes * (high - low) * weights[:, None], -found * weights
        while damping < 1e6:
            normal = scaled.T @ scaled
            normal += damping * np.eye(len(values)) * np.trace(normal) / len(values)
            tried = np.clip(values + np.linalg.solve(normal, scaled.T @ target) * (high - low), low, high)
            if _cost(now := errors(tried)) < _cost(found):
                break
            damping *= 5
        else:
            return values
        gained = 1 - _cost(now) / _cost(found)
        values, found, damping = tried, now, damping / 4
        if gained < 1e-6:
            return values
    return values


def _cost(errors: np.ndarray) -> float:
    return float(np.sum(np.sqrt(1 + (errors / _TOLERANCE) ** 2) - 1))
