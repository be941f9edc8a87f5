"""`python -m bench plan`: what a sweep would do and how long it would take. Nothing is run or written."""

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path

from bench.cards.gpus import Gpu
from bench.cards.verdict import Word
from bench.cells.grid import SweepConfig
from bench.measure.measure import Budget
from bench.records.results_store import ResultsStore
from bench.report.table_formats import Column, FormatOption, Printer, TableView, Value, printing
from bench.report.terminal import FITS_STYLES, fits_on, named, setting_of
from bench.report.time_tables import three_digits
from bench.sweep.planning import Plan, PlannedCell, in_words, make_plan
from bench.sweep.sweep import Redo, checked_cells
from bench.timing.training import TrainingEstimate, training_of
from bench.units import GIB, MIB
from fptplus.paper_training import EPOCHS
from methods import PASSES

from .progress import duration_in_words, say_engine, tracked


def print_plan(plan: Plan, printer: Printer, gpu: Gpu, num_images: int) -> None:
    """Print a row for each cell: what is predicted, whether it will run and for how long."""
    rows = [_row(planned, plan, gpu, num_images) for planned in plan.cells]
    groups = groupby(plan.cells, key=lambda planned: setting_of(planned.cell))
    printer.show(rows, *(_plan_view(setting, list(group), plan, gpu, num_images) for setting, group in groups))


def _plan_view(setting: str, cells: list[PlannedCell], plan: Plan, gpu: Gpu, num_images: int) -> TableView:
    """Return the table of the cells of one setting."""
    is_timed = any(_training(one, num_images) for one in cells)
    reads_features = any(f"{one.cell.method}_preloading" in PASSES for one in cells)
    trained = f"Train: {EPOCHS} epochs of {num_images:,} images, predicted{', without preloading' * reads_features}."
    return TableView(
        title=f"{setting}; memory predicted on {gpu.name} with {gpu.memory_bytes / GIB:.4g} GiB",
        columns=(
            Column(heading="Method", show=lambda planned: named(planned.cell)),
            Column(heading="Process\nMiB", show=_process_mib, is_number=True),
            Column(heading="Fits", show=lambda one: _word(one, gpu) or "", is_number=True, styles=FITS_STYLES),
            Column(heading="Seconds", show=partial(_seconds, plan), is_number=True),
            Column(heading="Train\nmin", show=partial(_train_minutes, num_images), is_number=True),
            Column(heading="Train\nkWh", show=partial(_train_kwh, num_images), is_number=True),
            Column(heading="Note", show=_note),
        ),
        items=cells,
        notes=[trained] * is_timed,
    )


def _training(planned: PlannedCell, num_images: int) -> TrainingEstimate | None:
    """Return the training predicted for a cell; None if it does not fit, or its time is not predicted."""
    found, cell = planned.prediction, planned.cell
    if found is None or found.estimate is None or found.fits == "no" or cell.method in PASSES:
        return None
    return training_of(found.estimate, cell.batch_size, num_images, EPOCHS)


def _train_minutes(num_images: int, planned: PlannedCell) -> str:
    return "" if (found := _training(planned, num_images)) is None else three_digits(found.train_time_s / 60)


def _train_kwh(num_images: int, planned: PlannedCell) -> str:
    return "" if (found := _training(planned, num_images)) is None else three_digits(found.energy_kwh)


def _process_mib(planned: PlannedCell) -> str:
    return "" if planned.prediction is None else f"{planned.prediction.process_bytes / MIB:,.0f}"


def _seconds(plan: Plan, planned: PlannedCell) -> str:
    return "" if planned.is_settled else f"{plan.eta.cell_s(planned.cell):,.0f}"


def _note(planned: PlannedCell) -> str:
    return "measured before" if planned.is_settled else in_words(planned.refusal)


def _row(planned: PlannedCell, plan: Plan, gpu: Gpu, num_images: int) -> dict[str, Value]:
    """Return a cell's configuration and everything that is planned for it."""
    found, training = planned.prediction, _training(planned, num_images)
    return asdict(planned.cell) | {
        "cell_id": planned.cell.cell_id,
        "predicted_process_bytes": found and found.process_bytes,
        "predicted_peak_reserved_bytes": found and found.peak.reserved_bytes,
        "predicted_peak_allocated_bytes": found and found.peak.allocated_bytes,
        "fits": _word(planned, gpu),
        "predicted_train_time_s": training and training.train_time_s,
        "predicted_energy_kwh": training and training.energy_kwh,
        "expected_time_s": None if planned.is_settled else plan.eta.cell_s(planned.cell),
        "is_settled": planned.is_settled,
        "note": _note(planned) or None,
    }


def plan_summary(plan: Plan, gpu: Gpu, duration: str) -> str:
    """Return the plan in one line.

    Args:
        plan: the sweep's plan.
        gpu: the card that the cells must fit.
        duration: the expected time, in words.
    """
    counts = Counter(planned.is_settled for planned in plan.cells)
    too_large = [planned.cell for planned in plan.cells if _word(planned, gpu) == "no"]
    names = ", ".join(f"{cell.method} {cell.model} {cell.res} px {cell.precision}" for cell in too_large)
    return (
        f"{len(plan.cells)} cells: {counts[True]} measured before, {counts[False]} to run, about {duration}; "
        f"predicted to need more than {gpu.memory_bytes / GIB:.4g} GiB: {names or 'none'}"
    )


def _word(planned: PlannedCell, gpu: Gpu) -> Word | None:
    """Whether a cell should fit; None if that is not known."""
    if planned.prediction is None:
        return None
    return fits_on(gpu, planned.cell, planned.fits, planned.prediction.peak.reserved_bytes)


@dataclass(frozen=True, kw_only=True)
class PlanConfig(FormatOption, SweepConfig):
    """List the cells that `run` would run with the same options, their predicted memory, and how long they would take.

    Nothing is run or written. Use --device cuda to plan for a machine with a GPU.
    """


def main(config: PlanConfig) -> int:
    """Print the table of a plan, and its summary."""
    cells = checked_cells(config, device=None if config.device == "auto" else config.device)
    store = ResultsStore(config.out, read_only=True) if (Path(config.out) / "records").is_dir() else None
    redo = Redo(what=config.redo, before=datetime.now(UTC))
    say_engine(config.engine)
    made = make_plan(cells, store, redo, budget_of(config), config.engine, partial(tracked, what="predicting"))
    with printing(config.format) as printer:
        print_plan(made, printer, config.gpu_to_predict, config.num_images)
        printer.note(plan_summary(made, config.gpu_to_predict, duration_in_words(made.left_s)))
    return 0


def budget_of(config: SweepConfig) -> Budget:
    """Return the time that each cell may take."""
    return Budget(cpu_s=config.cpu_budget_s, timeout_s=config.timeout_s)
