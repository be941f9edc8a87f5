"""The terminal as the commands write to it."""

from rich.console import Console


def plain_console(*, stderr: bool = False, highlight: bool = True) -> Console:
    """A console that prints brackets and colons of names as they are, where rich would read markup and emoji."""
    return Console(stderr=stderr, highlight=highlight, markup=False, emoji=False)
