"""`python -m bench validate`: measured, emulated and traced memory compared, and the predicted time of steps."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd

from bench.cards.gpus import present_gpu
from bench.cells.config import PROFILES, CellConfig
from bench.cells.identity import IDENTITY
from bench.measure.measure import Budget
from bench.predict.predictor import predict_all
from bench.records.record import Record
from bench.records.results_store import ResultsStore
from bench.report.figures import draw_scatter
from bench.report.table_formats import Column, FormatOption, TableView, data_rows, number, printing
from bench.sweep.harness import run_cell
from bench.sweep.planning import Track
from bench.sweep.sweep import Progress, Redo, Rules, is_settled, run_sweep
from bench.units import MIB
from fptplus import InvalidInput
from methods import METHODS

from .progress import progress_bar, tracked

COUNTERS = {"allocated": "peak_allocated_bytes", "reserved": "peak_reserved_bytes", "process": "process_bytes"}
"""Column names without `measured_` or `predicted_`; a record has both."""

ENGINES = ("emulated", "traced")

_SIZES = (("vit_b", 512, 16), ("vit_b", 224, 16), ("vit_b", 224, 64), ("vit_l", 384, 16))
_PROFILES = (
    PROFILES["paper"],
    PROFILES["paper"] | {"attention": "sdpa"},
    PROFILES["fast"],
    PROFILES["fast"] | {"attention": "flash"},
    PROFILES["fast"] | {"checkpointing": "block"},
)


def validation_cells(gpu: str) -> list[CellConfig]:
    """Return cells for all methods, two models, and several resolutions, batch sizes, precisions and attention modes.

    The paper's come first.
    """
    return [
        CellConfig(method=method, model=model, res=res, batch_size=batch_size, device="cuda", gpu=gpu, **axes)
        for axes in _PROFILES
        for model, res, batch_size in _SIZES
        for method in METHODS
    ]


def measure_cells(cells: list[CellConfig], store: ResultsStore, progress: Progress, limit_s: float) -> list[Record]:
    """Run cells until the time is up. Cells that have run before are not run again, so a further call resumes.

    Args:
        cells: cells to measure, each predicted for the card that it runs on.
        store: where records are kept.
        progress: is told of each cell.
        limit_s: time in seconds after which no further cell begins.

    Returns:
        The records of the cells that have run.
    """
    budget = Budget(cuda_s=1.0, power_window_s=0.0, loader_s=0.0)

    def run(cell: CellConfig) -> Record | None:
        return run_cell(cell, budget, on_phase=progress.phase, store=store)

    records = run_sweep(cells, store, progress, run, Rules(end_by=time.monotonic() + limit_s))
    return [record for record in records if is_settled(record, Redo())]


def trace_cells(cells: list[CellConfig], folder: Path, track: Track = lambda items, count: items) -> dict[str, Record]:
    """Return the traced prediction of each cell, by the cell's id; trace the cells that the folder lacks.

    Args:
        cells: cells to trace, on all processors.
        folder: folder for the records.
        track: shows progress over an iterable with the given number of items.
    """
    store = ResultsStore(folder)
    asked = {cell.cell_id: replace(cell, device="nothing") for cell in cells}
    missing = [cell for cell in asked.values() if store.find(cell.cell_id) is None]
    for cell, answer in zip(missing, track(predict_all(missing, "traced"), len(missing)), strict=True):
        if not isinstance(answer, Exception):
            store.write(run_cell(cell, Budget(), prediction=answer, store=store))
    store.write_csv()
    found = {cell_id: store.find(cell.cell_id) for cell_id, cell in asked.items()}
    return {cell_id: record for cell_id, record in found.items() if record is not None}


def errors(records: list[Record], traced: Mapping[str, Record]) -> pd.DataFrame:
    """Return a row for each cell and counter that was measured, with what each engine predicts.

    Args:
        records: records with measurement and prediction.
        traced: predictions of the meta trace, by cell_id.

    Returns:
        Columns IDENTITY, counter, measured_bytes, and for each of ENGINES name_bytes and name_error_pct (relative to
        measured, signed); empty if an engine did not predict it.
    """
    rows = []
    for record, (counter, column) in product(records, COUNTERS.items()):
        if (measured := getattr(record, f"measured_{column}")) is None:
            continue
        row = {name: getattr(record, name) for name in IDENTITY} | {"counter": counter, "measured_bytes": measured}
        by_engine = {"traced": traced.get(record.cell_id), record.predicted_by: record}
        for engine in ENGINES:
            size = getattr(by_engine.get(engine), f"predicted_{column}", None)
            row |= {f"{engine}_bytes": size, f"{engine}_error_pct": size and 100 * (size / measured - 1)}
        rows.append(row)
    predicted = [f"{engine}_{what}" for engine in ENGINES for what in ("bytes", "error_pct")]
    return pd.DataFrame(rows, columns=[*IDENTITY, "counter", "measured_bytes", *predicted])


def time_errors(records: list[Record]) -> pd.DataFrame:
    """Return a row for each cell whose steps were timed and whose time was predicted.

    Returns:
        Columns IDENTITY, measured_step_time_s (the median step), predicted_step_time_s, and error_pct (relative to
        measured, signed).
    """
    rows = [
        {name: getattr(record, name) for name in IDENTITY}
        | {
            "measured_step_time_s": record.step_time_s,
            "predicted_step_time_s": record.predicted_step_time_s,
            "error_pct": 100 * (record.predicted_step_time_s / record.step_time_s - 1),
        }
        for record in records
        if record.step_time_s is not None and record.predicted_step_time_s is not None
    ]
    return pd.DataFrame(rows, columns=[*IDENTITY, "measured_step_time_s", "predicted_step_time_s", "error_pct"])


@dataclass(frozen=True)
class ErrorSummary:
    """Unsigned errors of one engine in one counter, or of the time model in the time of a step."""

    counter: str
    engine: str
    num_cells: int
    median_pct: float
    worst_pct: float
    worst_cell: str


def summarize(table: pd.DataFrame) -> list[ErrorSummary]:
    """Return the median and worst error of each counter and engine."""
    summaries = []
    for counter, engine in product(COUNTERS, ENGINES):
        column = f"{engine}_error_pct"
        rows = table[(table.counter == counter) & table[column].notna()]
        if len(rows):
            summaries.append(_summary(counter, engine, rows, column))
    return summaries


def _summary(counter: str, engine: str, rows: pd.DataFrame, column: str) -> ErrorSummary:
    off = rows[column].astype(float).abs()
    worst = rows.loc[off.idxmax()]
    where = f"{worst.method} {worst.model} {worst.res} px {worst.precision} {worst.attention}"
    return ErrorSummary(counter, engine, len(rows), off.median(), off.max(), where)


def summarize_time(table: pd.DataFrame) -> list[ErrorSummary]:
    """Return the median and worst error of the time of a step; nothing if no step was timed."""
    return [_summary("step time", "model", table, "error_pct")] if len(table) else []


def write_validation(records: list[Record], traced: Mapping[str, Record], folder: Path) -> pd.DataFrame:
    """Write validation.csv, and the scatter plot if there is anything to plot. Return the table of errors()."""
    table = errors(records, traced)
    table.to_csv(folder / "validation.csv", index=False)
    if len(table):
        draw_scatter(folder / "validation", table)
    return table


def validation_views(errors: pd.DataFrame) -> Iterator[TableView]:
    """Yield a table for each setting: each counter of each cell as measured, and how far both engines are from it.

    Args:
        errors: the table that errors() returns.
    """
    for _, cells in errors.groupby([name for name in IDENTITY if name != "method"], sort=False, dropna=False):
        shown = cells.iloc[0]
        kept = "" if shown.checkpointing == "none" else f", checkpointing {shown.checkpointing}"
        yield TableView(
            title=f"{shown.model}, {shown.res} px, batch {shown.batch_size}, {shown.precision}, {shown.attention} "
            f"attention{kept}; measured in MiB, emulated and traced against it in %",
            columns=[
                Column(heading="Method", show=lambda rows: rows.method.iloc[0]),
                *(column for counter in COUNTERS for column in _counter_columns(counter)),
            ],
            items=[rows for _, rows in cells.groupby("method", sort=False)],
        )


def _counter_columns(counter: str) -> Iterator[Column]:
    """Yield the columns of a counter: its measured size, and the errors of the engines.

    They are empty if NVML or an engine gives no number.
    """

    def shown(name: str, form: str, unit: float) -> Callable[[pd.DataFrame], str]:
        def show(rows: pd.DataFrame) -> str:
            values = rows.loc[rows.counter == counter, name].dropna()
            return format(values.iloc[0] / unit, form) if len(values) else ""

        return show

    yield Column(heading=counter.capitalize(), show=shown("measured_bytes", ",.0f", MIB), is_number=True)
    for engine in ENGINES:
        show = shown(f"{engine}_error_pct", "+.2f", 1)
        yield Column(heading=f"{engine}\n%", show=show, is_number=True, is_extra=engine != ENGINES[0])


def errors_view(summaries: list[ErrorSummary], num_measured: int, num_cells: int) -> TableView:
    """Return the table of how far each engine is from the measurements."""
    return TableView(
        title=f"Predicted against measured: {num_measured} of {num_cells} cells measured",
        columns=(
            Column(heading="Counter", show=lambda one: one.counter),
            Column(heading="By", show=lambda one: one.engine),
            number("Cells", "num_cells"),
            number("Median\nerror %", "median_pct", ".2f"),
            number("Worst\nerror %", "worst_pct", ".2f"),
            Column(heading="Worst cell", show=lambda one: one.worst_cell),
        ),
        items=summaries,
    )


@dataclass(frozen=True, kw_only=True)
class ValidateConfig(FormatOption):
    """Measure all methods on this machine's GPU in many settings, and compare emulated and traced memory with it.

    Call it again to resume where the time ran out.
    """

    limit_s: float = 480.0
    """Time after which no further measurement starts, in seconds; tracing comes after that."""

    out: str | None = None
    """Folder for the records, table and plot. Default: results/<name of the GPU>."""


def main(config: ValidateConfig) -> int:
    """Measure, and compare predictions with the measurements."""
    if (gpu := present_gpu()) is None:
        raise InvalidInput("validate must run on a machine with a CUDA device, found none; use a GPU machine.")
    folder = Path(config.out or f"results/{gpu.name}")
    cells, store = validation_cells(gpu.name), ResultsStore(folder)
    with progress_bar(len(cells)) as progress:
        records = measure_cells(cells, store, progress, config.limit_s)
    measured = {record.cell_id for record in records if record.is_measured}
    traced = trace_cells(
        [cell for cell in cells if cell.cell_id in measured], folder / "traced", partial(tracked, what="tracing")
    )
    table, times = write_validation(records, traced, folder), time_errors(records)
    times.to_csv(folder / "validation_time.csv", index=False)
    with printing(config.format) as printer:
        printer.show(data_rows(table), *validation_views(table))
        printer.summarize(errors_view(summarize(table) + summarize_time(times), len(measured), len(cells)))
        if emulated := len(records) - len(measured):
            printer.note(f"{emulated} cells ran on an emulated device, where nothing is measured")
        printer.note(f"records, validation.csv, validation_time.csv and validation.png in {folder}")
    return int(any(record.status == "failed" for record in records))
