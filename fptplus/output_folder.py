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
        raise _not_writable(name, error) from error


def check_output_folder(folder: Path) -> None:
    """See early that a folder can be made and written later, without making it.

    Raises:
        InvalidInput: if it cannot.
    """
    try:
        nearest = folder
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        with tempfile.TemporaryFile(dir=nearest):
            return
    except (OSError, ValueError) as error:
        raise _not_writable(folder, error) from error


def _not_writable(name: str | Path, error: Exception) -> InvalidInput:
    reason = getattr(error, "strerror", None) or error
    return InvalidInput(f"out must be a folder that can be written, got {str(name)!r} ({reason}); name another.")
