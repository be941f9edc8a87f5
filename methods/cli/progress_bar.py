"""A progress bar with the remaining time, on the error stream."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .plain_console import plain_console

OnProgress = Callable[[int, int], None]
"""Function called with how much is done, and the total."""


@contextmanager
def progress_bar(title: str, *, visible: bool = True) -> Iterator[OnProgress]:
    """Show a bar while work is done; yields the function that moves it."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=plain_console(stderr=True), transient=True, disable=not visible) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
