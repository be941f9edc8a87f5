"""Table II's time, throughput and power, predicted for the paper's card without any fit to the paper.

Rows that run the large pre-trained model (LPM) are our methods' steps with one change: the official code pins
transformers 4.29.1, whose ViT divides the score matrix after the product (models/vit/modeling_vit.py): one more pass
over it, forward and backward. FPT and FPT+ read stored features through the official loader; their total includes
preloading, as the printed numbers do (154.23 − 31.76 s are 20 epochs of 65 steps at 171.83 img/s).
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

from bench.cards.gpus import PAPER_GPU, find_gpu
from bench.timing.energy import power_of
from bench.timing.estimate import estimate_step
from bench.timing.feeding import BatchFeed, save_s
from bench.timing.operations import Operation, StepWork, Touch
from bench.timing.peaks import card_peaks
from bench.timing.step_time import time_of
from fptplus.paper_training import EPOCHS, TABLE2_SPLIT_IMAGES
from methods import METHODS

from .settings import paper_cell

BATCH_SIZE = 16
STEPS = EPOCHS * (TABLE2_SPLIT_IMAGES // BATCH_SIZE)
"""Steps of a training: the last images of an epoch are dropped."""

PRELOADING = "preloading"

FILE = "table2_time.csv"
"""Name of the file that holds the predicted rows, under `results/published`."""


@dataclass(frozen=True, kw_only=True)
class TimedRow:
    """One row of Table II, predicted."""

    method: str
    train_time_s: float
    throughput_img_s: float
    peak_power_w: float
    mean_power_w: float
    bound_by: str


def read_table2(path: Path) -> dict[str, TimedRow]:
    """Return the predicted rows by method from a file of `python -m bench timing`; none if there is no file."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["method"]: TimedRow(**_columns(row)) for row in csv.DictReader(file)}


def _columns(row: dict[str, str]) -> dict[str, str | float]:
    labels = {name: row[name] for name in ("method", "bound_by")}
    return labels | {f.name: float(row[f"predicted_{f.name}"]) for f in fields(TimedRow) if f.name not in labels}


def cells_of_table2() -> dict[str, object]:
    """Return the cell of each method, on the paper's card."""
    return {method: paper_cell(method, "vit_b", 512) for method in METHODS}


def predicted_table2(works: dict[str, StepWork]) -> Iterator[TimedRow]:
    """Yield the rows of Table II, in its order.

    Args:
        works: what the step of each method does, in the paper's setting.
    """
    preloading = _preloading(works["linear"], works["fptplus"].input_bytes)
    for method, work in works.items():
        stores = method in ("fpt", "fptplus")
        if method == "fpt":
            yield preloading
        done = work if stores else with_scaled_scores(work)
        step = estimate_step(done, find_gpu(PAPER_GPU), BATCH_SIZE, batch_bytes=work.input_bytes)
        yield TimedRow(
            method=method,
            train_time_s=STEPS * step.step_time_s + (preloading.train_time_s if stores else 0),
            throughput_img_s=step.img_per_s,
            peak_power_w=step.peak_power_w,
            mean_power_w=step.mean_power_w,
            bound_by=step.bound_by,
        )


def with_scaled_scores(work: StepWork) -> StepWork:
    """Return the same step with the scores divided after the product, and their gradient after softmax's."""
    return replace(work, operations=tuple(_scaled(work.operations)))


def _scaled(operations: tuple[Operation, ...]) -> Iterator[Operation]:
    for operation in operations:
        scores = next((touch.num_bytes for touch in operation.touches if touch.is_written), 0)
        division = replace(
            operation,
            op="div",
            kind="elementwise",
            launches=1,
            touches=(Touch(scores, False), Touch(scores, True)),
            row=0,
        )
        if operation.op == "_softmax":
            yield division
        yield operation
        if operation.op == "_softmax_backward_data":
            yield division


def _preloading(linear: StepWork, batch_bytes: int) -> TimedRow:
    """Return the preloading pass: forward, features back to the host, a file for each image, one after another.

    Args:
        linear: the step of linear probing, whose forward pass is the frozen LPM's.
        batch_bytes: size of a batch of features.
    """
    card = card_peaks(find_gpu(PAPER_GPU))
    done = with_scaled_scores(linear)
    kernels = [time_of(operation, card) for operation in done.operations if operation.phase == "forward"]
    step_s = sum(kernel.seconds for kernel in kernels) + save_s(batch_bytes, BatchFeed())
    power = power_of(kernels, step_s, card)
    return TimedRow(
        method=PRELOADING,
        train_time_s=TABLE2_SPLIT_IMAGES / BATCH_SIZE * step_s,
        throughput_img_s=BATCH_SIZE / step_s,
        peak_power_w=power.peak_w,
        mean_power_w=power.mean_w,
        bound_by="arithmetic",
    )
