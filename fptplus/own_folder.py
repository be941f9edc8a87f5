"""A folder for what is being made, which the next process removes if this one is killed."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fptplus.held_lock import HeldByAnother, held

_ENDING = re.compile(r"[0-9a-f]{8}\.lock")


@contextmanager
def own_folder(parent: Path, prefix: str, *, mode: int = 0o777) -> Iterator[Path]:
    """Yield a new folder whose name begins with `prefix`; it is removed at the end, unless it has another name by then.

    A lock next to it tells that it is in use. What processes that were killed have left in `parent` under this prefix
    is removed first; a folder without such a lock is somebody else's.

    Args:
        parent: the folder to make it in.
        prefix: what its name begins with; eight random digits follow.
        mode: its permissions, before the umask.
    """
    _remove_left(parent, prefix)
    folder = parent / f"{prefix}{secrets.token_hex(4)}"
    lock = _lock_of(folder)
    with held(lock, limit_s=0):
        try:
            folder.mkdir(mode=mode)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove_left(parent: Path, prefix: str) -> None:
    for lock in parent.iterdir():
        if not (lock.name.startswith(prefix) and _ENDING.fullmatch(lock.name[len(prefix) :])):
            continue
        with suppress(HeldByAnother, OSError):  # still in use, or another user's
            if lock.is_symlink() or (hasattr(os, "getuid") and lock.stat().st_uid != os.getuid()):
                continue
            with held(lock, limit_s=0):
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
