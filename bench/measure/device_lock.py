"""One cell at a time on a device, whoever runs it: concurrent sweeps must not measure each other."""

import getpass
import hashlib
import os
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from bench.cards.probe import present_properties
from bench.cells.config import MeasuredOn
from fptplus.held_lock import held

DEVICE_LIMIT_S = 3600.0
"""How long a cell waits for the device. Others measure there one cell at a time, of a quarter of an hour at most."""


def device_lock(device: MeasuredOn, limit_s: float = DEVICE_LIMIT_S) -> AbstractContextManager[None]:
    """Hold the lock of this machine's CPU or CUDA device, shared by the processes of this user.

    It cannot wait for other users' processes. If one of them computes on the GPU, the cell fails.

    Raises:
        HeldByAnother: naming the process that has it, after the limit.
    """
    properties = present_properties() if device == "cuda" else None
    name = f"{_user()} {properties.uuid if properties else device}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return held(Path(tempfile.gettempdir()) / f"fptplus-bench-{digest}.lock", limit_s=limit_s)


def _user() -> str:
    """Name of this user, or the number of one without a name, as containers have them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return f"user {os.getuid()}"
