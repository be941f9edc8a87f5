"""A file that is the old one or the new one to every reader, and never half of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place once it rests on the disk, and is removed if that fails."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    beside = Path(name)
    try:
        yield beside
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        beside.chmod(0o644)  # mkstemp keeps others out
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
