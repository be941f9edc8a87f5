"""A file lock whose holder can be named: whoever waits says for which process, and waits no longer than a limit."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fptplus.errors import InvalidInput

MOST_SHOWN = 60
"""Number of characters of a command that are shown."""

log = logging.getLogger(__name__)


class HeldByAnother(InvalidInput):
    """Another process has held a lock for longer than one waits."""


@contextmanager
def held(path: Path, *, limit_s: float) -> Iterator[None]:
    """Hold a lock while the block runs; it ends with this process, however that ends.

    Args:
        path: the lock's file. Whoever holds it is noted next to it.
        limit_s: how long to wait; if it has to, the log says for whom.

    Raises:
        HeldByAnother: naming the process that holds it, after the limit.
    """
    lock, note = FileLock(path), holder_note(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _wait(lock, path, note, limit_s)
    try:
        with suppress(OSError):  # a note that does not fit on the disk is done without
            note.write_text(f"{os.getpid()} {socket.gethostname()}\n{_command()}")
        yield
    finally:
        with suppress(OSError):
            note.unlink()
        lock.release()


def holder_note(path: Path) -> Path:
    """Return the file in which the holder of a lock is noted."""
    return path.with_name(f"{path.name}.holder")


def _command() -> str:
    """This process's command, as a user knows it."""
    program = Path(sys.argv[0])
    return " ".join([program.parent.name if program.stem == "__main__" else program.name, *sys.argv[1:]])


def _wait(lock: FileLock, path: Path, note: Path, limit_s: float) -> None:
    if limit_s > 0:
        log.warning(f"waiting for {_holder(note)}, which holds {path}, for at most {limit_s:g} s")
        with suppress(Timeout):
            lock.acquire(timeout=limit_s)
            return
    raise HeldByAnother(
        f"{path} must be held by one process at a time, {_holder(note)} "
        + (f"has held it for {limit_s:g} s" if limit_s > 0 else "holds it")
        + "; wait until it ends, or end it, then call it again."
    )


def _holder(note: Path) -> str:
    """The process that a note names, in words; a process that was killed may have left an older note."""
    try:
        first, _, command = note.read_text().partition("\n")
        number, _, host = first.partition(" ")
        number = abs(int(number))
        here = host == socket.gethostname()
        if here:
            os.kill(number, 0)  # raises if there is none
    except PermissionError:
        pass  # there is one, of another user
    except (OSError, ValueError, OverflowError):
        return "another process"
    shown = command if len(command) <= MOST_SHOWN else f"{command[:MOST_SHOWN]}…"
    return f"process {number}{'' if here else f' on {host}'} ({shown})"
