"""Write a folder that appears complete or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fptplus.errors import InvalidInput
from fptplus.own_folder import own_folder


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder next to `out` to write into; it takes the place of `out` at the end, and is removed on failure.

    If the process is killed, the next one that makes `out` removes it.

    Raises:
        InvalidInput: if `out` already exists and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"out must be a new or empty folder, {out} is not; name another.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with own_folder(out.parent, f".{out.name}-") as beside:
        yield beside
        beside.replace(out)
