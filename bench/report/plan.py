"""The plan of a sweep on the terminal."""

from collections import Counter

from rich import box
from rich.table import Table

from bench.plan import Plan, PlannedCell, in_words
from bench.predict.devices import Gpu
from bench.predict.verdict import Word
from bench.report.terminal import FITS, fits_on
from bench.step_options import axes_in_words
from bench.units import GIB, MIB


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


def plan_summary(plan: Plan, gpu: Gpu, in_words: str) -> str:
    """The plan in one line.

    Args:
        plan: of the sweep.
        gpu: that must suffice.
        in_words: the time it should take.
    """
    counts = Counter(planned.is_settled for planned in plan.cells)
    too_large = [planned.cell for planned in plan.cells if _word(planned, gpu) == "no"]
    names = ", ".join(f"{cell.method} {cell.model} {cell.res} px {cell.precision}" for cell in too_large)
    return (
        f"{len(plan.cells)} cells: {counts[True]} measured before, {counts[False]} to run, about {in_words}; "
        f"predicted to need more than {gpu.memory_bytes / GIB:.4g} GiB: {names or 'none'}"
    )


def _word(planned: PlannedCell, gpu: Gpu) -> Word | None:
    """Whether a cell should fit; None where that is not known."""
    if planned.prediction is None:
        return None
    return fits_on(gpu, planned.cell, planned.fits, planned.prediction.peak.reserved_bytes)
