"""A bar on the error stream while cells run."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from bench.sweep import Progress


@contextmanager
def progress_bar(num_cells: int) -> Iterator[Progress]:
    """A bar on the error stream while cells run."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ProgressBar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=num_cells)
        yield Progress(
            begin=lambda cell: bar.update(task, description=f"{cell.method} {cell.model} {cell.res} px"),
            end=lambda _: bar.advance(task),
        )
