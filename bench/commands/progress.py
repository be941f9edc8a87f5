"""A progress bar on standard error while cells run: which cell, what it does, how many are done, the time left."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, track
from rich.progress import Progress as ProgressBar

from bench.cells.config import CellConfig
from bench.predict.predictor import Engine, why_traced
from bench.sweep.duration import Eta
from bench.sweep.sweep import Progress


@contextmanager
def progress_bar(num_cells: int, left: Callable[[], str] = lambda: "") -> Iterator[Progress]:
    """Show a progress bar while cells run.

    Args:
        num_cells: number of cells in all.
        left: returns how long the rest will take, in words.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    columns += (TextColumn("{task.fields[left]}"),)
    console = Console(stderr=True)
    with ProgressBar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=num_cells, left="")
        name = ""

        def begin(cell: CellConfig) -> None:
            nonlocal name
            name = f"{cell.method} {cell.model} {cell.res} px"
            bar.update(task, description=name, left=left())

        yield Progress(
            begin=begin,
            end=lambda _: bar.advance(task),
            phase=lambda phase: bar.update(task, description=f"{name}: {phase}"),
        )


@contextmanager
def sweep_progress(cells: list[CellConfig], eta: Eta) -> Iterator[Progress]:
    """Show the same bar with the time left, which is estimated anew after each cell.

    Args:
        cells: the cells to run.
        eta: estimates their times.
    """
    open_cells = {cell.cell_id: cell for cell in cells}
    with progress_bar(
        len(cells), lambda: f"about {duration_in_words(sum(map(eta.cell_s, open_cells.values())))} left"
    ) as bar:

        def end(record) -> None:
            open_cells.pop(record.cell_id, None)
            eta.learn(record)
            bar.end(record)

        yield Progress(begin=bar.begin, end=end, phase=bar.phase)


def tracked(items: Iterable, count: int, what: str) -> Iterable:
    """Return the items; while they are iterated over, a progress bar is shown on standard error.

    Args:
        items: to iterate over.
        count: their number.
        what: description next to the bar.
    """
    console = Console(stderr=True)
    return track(items, what, count, console=console, transient=True, disable=not console.is_terminal)


def say_engine(engine: Engine) -> None:
    """Tell the user if memory is not emulated, and why.

    Raises:
        CannotEmulate: if the emulated device is asked for but does not run here.
    """
    if (reason := why_traced(engine)) is not None:
        print(f"note: {reason}", file=sys.stderr)


def duration_in_words(seconds: float) -> str:
    """Return a duration as 0:01:30."""
    return str(timedelta(seconds=round(seconds)))
