"""The folder that a command writes to; nothing outside of it is touched."""

import tempfile
from pathlib import Path

from fptplus.errors import InvalidInput


def writable_folder(name: str | Path) -> Path:
    """The folder of a name, made where it is missing.

    Raises:
        InvalidInput: if nothing can be written there.
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
