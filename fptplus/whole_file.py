"""Write a file so that every reader sees the old one or the new one, and never half of it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a file next to `path` to write; it replaces `path` once it is safely on disk, and is removed on failure."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    beside = Path(name)
    try:
        yield beside
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        beside.chmod(0o644)  # mkstemp denies others access
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
