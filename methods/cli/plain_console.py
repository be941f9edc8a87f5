"""The terminal as the commands write to it."""

from rich.console import Console


def plain_console(*, stderr: bool = False) -> Console:
    """A console that prints brackets and colons of names as they are, where rich would read markup and emoji."""
    return Console(stderr=stderr, markup=False, emoji=False)
