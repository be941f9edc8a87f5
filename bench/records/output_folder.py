"""The folder that a command writes to; nothing outside it is touched."""

import tempfile
from pathlib import Path

from fptplus.errors import InvalidInput


def writable_folder(name: str | Path) -> Path:
    """Return the folder of the given name; create it if it is missing.

    Raises:
        InvalidInput: if it cannot be written to.
    """
    try:
        if not str(name):
            raise ValueError("the name is empty")
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInput(
            f"out must be a folder that can be written, got {str(name)!r} ({reason}); name another."
        ) from error
