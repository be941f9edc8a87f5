"""Predictions against measurements on the CUDA device of this machine: table, scatter plot, errors per counter."""

import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from methods import METHODS

from .config import PROFILES, CellConfig
from .harness import run_cell
from .measure import Budget
from .record import Record
from .report.figures import draw_scatter
from .results_store import ResultsStore
from .sweep import Progress, Rules, run_sweep

COUNTERS = {
    "allocated": ("predicted_peak_allocated_bytes", "measured_peak_allocated_bytes"),
    "reserved": ("predicted_peak_reserved_bytes", "measured_peak_reserved_bytes"),
    "process": ("predicted_process_bytes", "measured_process_bytes"),
}

_SIZES = (("vit_b", 512, 16), ("vit_b", 224, 16), ("vit_b", 224, 64), ("vit_l", 384, 16))
_AXES = (
    PROFILES["paper"],
    PROFILES["paper"] | {"attention": "sdpa"},
    PROFILES["fast"],
    PROFILES["fast"] | {"attention": "flash"},
    PROFILES["fast"] | {"checkpointing": "block"},
)


def validation_cells(gpu: str) -> list[CellConfig]:
    """All methods, two models, several resolutions, batch sizes, precisions and attention modes; the paper's first."""
    return [
        CellConfig(method=method, model=model, res=res, batch_size=batch_size, device="cuda", gpu=gpu, **axes)
        for axes in _AXES
        for model, res, batch_size in _SIZES
        for method in METHODS
    ]


def measure_cells(cells: list[CellConfig], store: ResultsStore, progress: Progress, limit_s: float) -> list[Record]:
    """Measure cells until the time is up; those measured before are taken as they are, so a further call goes on.

    Args:
        cells: to measure.
        store: where records are kept.
        progress: told of each cell.
        limit_s: no further cell begins after so many seconds.
    """
    budget = Budget(cuda_s=1.0, power_window_s=0.0, loader_s=0.0)

    def run(cell: CellConfig) -> Record | None:
        return run_cell(cell, budget, on_phase=progress.phase)

    records = run_sweep(cells, store, progress, run, Rules(end_by=time.monotonic() + limit_s))
    return [record for record in records if record.is_measured]


def errors(records: list[Record]) -> pd.DataFrame:
    """A row for each cell and counter that was both predicted and measured.

    Returns:
        Columns method, model, res, batch_size, precision, attention, checkpointing, counter, predicted_bytes,
        measured_bytes, error_pct (predicted to measured, signed).
    """
    shared = ("method", "model", "res", "batch_size", "precision", "attention", "checkpointing")
    rows = []
    for record in records:
        for counter, (predicted, measured) in COUNTERS.items():
            pair = getattr(record, predicted), getattr(record, measured)
            if None not in pair:
                setting = {name: getattr(record, name) for name in shared}
                error_pct = 100 * (pair[0] / pair[1] - 1)
                sizes = {"predicted_bytes": pair[0], "measured_bytes": pair[1], "error_pct": error_pct}
                rows.append({**setting, "counter": counter, **sizes})
    columns = [*shared, "counter", "predicted_bytes", "measured_bytes", "error_pct"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class ErrorSummary:
    """How far predictions of one counter are off, without sign."""

    counter: str
    num_cells: int
    median_pct: float
    worst_pct: float
    worst_cell: str


def summarize(table: pd.DataFrame) -> list[ErrorSummary]:
    """Median and worst error of each counter."""
    summaries = []
    for counter in COUNTERS:
        rows = table[table.counter == counter]
        if len(rows):
            off = rows.error_pct.abs()
            worst = rows.loc[off.idxmax()]
            where = f"{worst.method} {worst.model} {worst.res} px {worst.precision} {worst.attention}"
            summaries.append(ErrorSummary(counter, len(rows), off.median(), off.max(), where))
    return summaries


def write_validation(records: list[Record], folder: Path) -> list[ErrorSummary]:
    """Write validation.csv, and the scatter plot where there is anything to plot."""
    table = errors(records)
    table.to_csv(folder / "validation.csv", index=False)
    if len(table):
        draw_scatter(folder / "validation", table)
    return summarize(table)
