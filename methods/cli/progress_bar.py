"""Progress with the time that is left, on the error stream."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .plain_console import plain_console

OnProgress = Callable[[int, int], None]
"""Told how much is done, and of how much."""


@contextmanager
def progress_bar(title: str, *, visible: bool = True) -> Iterator[OnProgress]:
    """A bar while work is done; gives the function that moves it."""
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
