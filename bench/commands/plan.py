"""`python -m bench plan`: what a sweep would do, and how long it would take; nothing is run or written."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.table import Table

from bench.cards.gpus import Gpu
from bench.cards.verdict import Word
from bench.cells.grid import SweepConfig
from bench.cells.step_options import axes_in_words
from bench.measure.measure import Budget
from bench.records.results_store import ResultsStore
from bench.report.terminal import FITS, fits_on, make_console
from bench.sweep.planning import Plan, PlannedCell, in_words, make_plan
from bench.sweep.sweep import Redo, checked_cells
from bench.units import GIB, MIB

from .progress import duration_in_words, say_engine, tracking


def plan_table(plan: Plan, gpu: Gpu) -> Table:
    """A row for each cell: its setting, what is predicted, whether it will run and for how long."""
    title = f"{len(plan.cells)} cells; memory predicted on {gpu.name} with {gpu.memory_bytes / GIB:.4g} GiB"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for heading in ("Method", "Model", "Axes"):
        table.add_column(heading, no_wrap=True)
    for heading in ("Pixels", "Batch", "Process MiB", "Fits", "Seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for planned in plan.cells:
        cell = planned.cell
        needs = "" if planned.prediction is None else f"{planned.prediction.process_bytes / MIB:,.0f}"
        fits = FITS.get(_word(planned, gpu), "")
        seconds = "" if planned.is_settled else f"{plan.eta.cell_s(cell):,.0f}"
        note = "measured before" if planned.is_settled else in_words(planned.refusal)
        sizes = (str(cell.res), str(cell.batch_size))
        table.add_row(cell.method, cell.model, axes_in_words(cell), *sizes, needs, fits, seconds, note)
    return table


def plan_summary(plan: Plan, gpu: Gpu, duration: str) -> str:
    """The plan in one line.

    Args:
        plan: of the sweep.
        gpu: that must suffice.
        duration: the time it should take, in words.
    """
    counts = Counter(planned.is_settled for planned in plan.cells)
    too_large = [planned.cell for planned in plan.cells if _word(planned, gpu) == "no"]
    names = ", ".join(f"{cell.method} {cell.model} {cell.res} px {cell.precision}" for cell in too_large)
    return (
        f"{len(plan.cells)} cells: {counts[True]} measured before, {counts[False]} to run, about {duration}; "
        f"predicted to need more than {gpu.memory_bytes / GIB:.4g} GiB: {names or 'none'}"
    )


def _word(planned: PlannedCell, gpu: Gpu) -> Word | None:
    """Whether a cell should fit; None where that is not known."""
    if planned.prediction is None:
        return None
    return fits_on(gpu, planned.cell, planned.fits, planned.prediction.peak.reserved_bytes)


@dataclass(frozen=True, kw_only=True)
class PlanConfig(SweepConfig):
    """List the cells that `run` would run with the same options: predicted memory, what does not fit, time.

    Nothing is run or written. --device cuda plans for a machine that has one.
    """


def main(config: PlanConfig) -> int:
    """The table of a plan, and its sum."""
    cells = checked_cells(config, device=None if config.device == "auto" else config.device)
    store = ResultsStore(config.out) if (Path(config.out) / "records").is_dir() else None
    redo = Redo(what=config.redo, before=datetime.now(UTC))
    say_engine(config.engine)
    with tracking("predicting") as track:
        made = make_plan(cells, store, redo, budget_of(config), config.engine, track)
    console, gpu = make_console(), config.gpu_to_predict
    console.print(plan_table(made, gpu))
    console.print(plan_summary(made, gpu, duration_in_words(made.left_s)), highlight=False)
    return 0


def budget_of(config: SweepConfig) -> Budget:
    """The time that each cell may take."""
    return Budget(cpu_s=config.cpu_budget_s, timeout_s=config.timeout_s)
