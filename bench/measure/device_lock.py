"""One cell at a time on a device, whoever runs it: concurrent sweeps must not measure each other."""

import getpass
import hashlib
import os
import tempfile
from pathlib import Path

from filelock import FileLock

from bench.cards.probe import present_properties
from bench.cells.config import MeasuredOn


def device_lock(device: MeasuredOn) -> FileLock:
    """Return the lock of this machine's CPU or CUDA device, shared by the processes of this user.

    It cannot wait for other users' processes. If one of them computes on the GPU, the cell fails.
    """
    properties = present_properties() if device == "cuda" else None
    name = f"{_user()} {properties.uuid if properties else device}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"fptplus-bench-{digest}.lock")


def _user() -> str:
    """Name of this user, or the number of one without a name, as containers have them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"user {os.getuid()}"
