"""Tables of predicted time and energy: what takes the time of a step, and how long a training takes."""

import math
from collections.abc import Sequence

from bench.cards.gpus import Gpu
from bench.timing.estimate import StepEstimate
from bench.timing.training import TrainingEstimate
from methods import find_method

from .table_formats import Column, TableView, number

_MOST_TIME_PARTS = 6

Timed = tuple[str, StepEstimate, TrainingEstimate]
"""A method with the estimates of its step and its training."""


def time_view(title: str, estimate: StepEstimate) -> TableView:
    """Return the table of what takes the time of a step, by phase and kind of operation; all of it predicted."""
    shown, others = estimate.parts[:_MOST_TIME_PARTS], estimate.parts[_MOST_TIME_PARTS:]
    left_ms = 1000 * sum(part.seconds for part in others)
    step_ms = three_digits(1000 * estimate.step_time_s)
    return TableView(
        title=f"{title}: {step_ms} ms a step, predicted; bound by {estimate.bound_by}",
        columns=(
            Column(heading="Phase", show=lambda part: part.phase),
            Column(heading="Operations", show=lambda part: part.kind),
            number("Count", "count"),
            number("GFLOP", "flops", ",.1f", 1e9),
            number("GB moved", "bytes_moved", ",.2f", 1e9),
            number("ms", "seconds", ",.2f", 1e-3),
        ),
        items=shown,
        notes=[f"all others together: {left_ms:,.2f} ms"] if others else [],
    )


def training_view(timed: Sequence[Timed], gpu: Gpu, epochs: int, num_images: int) -> TableView:
    """Return how long the training of each method that fits takes on a GPU, and its energy; all of it predicted."""
    return TableView(
        title=f"{epochs} epochs of {num_images:,} images on {gpu.name}, evaluation not included; predicted",
        columns=(
            Column(heading="Method", show=lambda one: find_method(one[0]).title),
            Column(heading="Step\nms", show=lambda one: three_digits(1000 * one[1].step_time_s), is_number=True),
            Column(heading="Bound by", show=lambda one: one[1].bound_by, is_extra=True),
            Column(heading="Preloading\nmin", show=lambda one: _minutes(one[2].preloading_time_s), is_number=True),
            Column(heading="Training\nmin", show=lambda one: _minutes(one[2].train_time_s), is_number=True),
            Column(heading="Total\nmin", show=lambda one: _minutes(one[2].total_time_s), is_number=True),
            Column(heading="Energy\nkWh", show=lambda one: three_digits(one[2].energy_kwh), is_number=True),
        ),
        items=timed,
    )


def _minutes(seconds: float) -> str:
    return three_digits(seconds / 60) if seconds else ""


def three_digits(value: float) -> str:
    """Return a positive number with three digits that count, as 0.0123, 1.23, 12.3 or 1,234."""
    decimals = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{decimals}f}"
