"""Write a file so that every reader sees the old one or the new one, and never half of it."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{8}\.unfinished")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a file next to `path` to write; it replaces `path` once it is safely on disk, and is removed on failure."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
    beside.touch(exist_ok=False)  # with the user's umask
    try:
        yield beside
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def clear_unfinished(folder: Path, *patterns: str) -> None:
    """Remove what `unfinished_files` finds; only for one who knows that no other process is writing these files."""
    for pattern in patterns:
        for left in unfinished_files(folder, pattern):
            left.unlink(missing_ok=True)


def unfinished_files(folder: Path, pattern: str) -> Iterator[Path]:
    """What processes that died inside `whole_file` have left of the files whose names match; no file of others."""
    for beside in folder.glob(".*.unfinished"):
        found = _UNFINISHED.fullmatch(beside.name)
        if found and fnmatchcase(found[1], pattern):
            yield beside
