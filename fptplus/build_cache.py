"""Compiled code in the user's cache folder: built once, by one process, as a whole, and checked before loading.

~/.cache/fptplus/<name>-<digest of everything it is made from>/   what was built, and `built.json` with its hashes
"""

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from fptplus.held_lock import HeldByAnother, held

COMPILERS = ("g++", "c++", "clang++")
COMPILE_LIMIT_S = 300.0
"""Time limit for a compiler; one that takes longer is assumed to hang."""

WAIT_LIMIT_S = 2 * COMPILE_LIMIT_S
"""How long to wait for another process that is building the same."""

MESSAGE_LETTERS = 300
"""Number of characters of a failed tool's message that are passed on."""

_MANIFEST = "built.json"


class BuildFailed(RuntimeError):
    """Nothing could be built; the message says why in one sentence without a full stop."""


def find_compiler() -> str:
    """Return the path of a C++ compiler.

    Raises:
        BuildFailed: if there is none.
    """
    found = next(filter(None, map(shutil.which, COMPILERS)), None)
    if found is None:
        raise BuildFailed("there is no C++ compiler; install g++")
    return found


def run_tool(*command: str | Path) -> str:
    """Run a compiler or another build tool and return what it prints.

    Raises:
        BuildFailed: if it fails, hangs or is missing; the message quotes the first error that it printed.
    """
    name = Path(command[0]).name
    try:
        tool = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise BuildFailed(f"{name} could not be run ({error.strerror})") from error
    try:
        output, errors = tool.communicate(timeout=COMPILE_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"{name} took longer than {COMPILE_LIMIT_S:g} s") from error
    finally:
        if tool.returncode is None:  # timed out or interrupted
            _kill_with_children(tool)
    if tool.returncode:
        lines = (errors.strip() or output.strip() or "no message").splitlines()
        told = next((line for line in lines if "error" in line.lower()), lines[0]).strip()
        raise BuildFailed(f"{name} ended with status {tool.returncode}: {told[:MESSAGE_LETTERS]}")
    return output


def built(name: str, made_from: Iterable[str | bytes], build: Callable[[Path], None]) -> Path:
    """Return the folder with what `build` makes, taken from the cache or built now.

    Args:
        name: name of the folder, to which the digest is added.
        made_from: everything the result depends on: sources, options, versions.
        build: function that writes the files into an empty folder.

    Raises:
        BuildFailed: if it cannot be built, or others can write to the cache folder.
    """
    digest = hashlib.sha256()
    for part in made_from:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    try:
        cache = cache_folder()
        folder = cache / f"{name}-{digest.hexdigest()[:16]}"
        if not _is_whole(folder):
            with held(cache / f"{folder.name}.lock", limit_s=WAIT_LIMIT_S):
                if not _is_whole(folder):  # another process has been at it
                    _build_into(folder, build)
    except HeldByAnother as error:
        raise BuildFailed(str(error).removesuffix(".")) from error
    except (OSError, RuntimeError) as error:  # the latter: there is no home folder
        if isinstance(error, BuildFailed):
            raise
        raise BuildFailed(f"the cache folder cannot be used ({error}); set XDG_CACHE_HOME to one") from error
    return folder


def cache_folder() -> Path:
    """Return the project's folder in the user's cache, and create it if it is missing.

    Raises:
        BuildFailed: if others can write there, since what is loaded from it runs with the user's rights.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fptplus"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not _is_the_users_alone(folder):
        raise BuildFailed(
            f"the cache folder {str(folder)!r} must belong to you and be writable by nobody else; "
            "mend that (chmod go-w), or set XDG_CACHE_HOME to another"
        )
    return folder


def _build_into(folder: Path, build: Callable[[Path], None]) -> None:
    """Build alongside the folder and rename, so that it is there whole or not at all; the caller holds its lock."""
    prefix = f".build-{folder.name}-"
    for path in (folder, *folder.parent.glob(f"{prefix}*")):  # what is bad, and what a killed process left
        _remove(path)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as name:
        made = Path(name) / "made"
        made.mkdir(mode=0o700)
        build(made)
        hashes = {path.name: _hash(path) for path in sorted(made.iterdir())}
        (made / _MANIFEST).write_text(json.dumps(hashes))
        for path in (*made.iterdir(), made):
            _sync(path)
        made.rename(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_the_users_alone(folder: Path) -> bool:
    """Whether a folder belongs to the user, and nobody else can write there."""
    state = folder.stat()
    return not hasattr(os, "getuid") or (state.st_uid == os.getuid() and not stat.S_IMODE(state.st_mode) & 0o022)


def _is_whole(folder: Path) -> bool:
    """Whether a folder is the user's own and holds what was built there, byte for byte."""
    try:
        if folder.is_symlink() or not _is_the_users_alone(folder):
            return False
        hashes = json.loads((folder / _MANIFEST).read_text())
        return bool(hashes) and all(_hash(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _kill_with_children(tool: subprocess.Popen) -> None:
    """Also the processes that a compiler starts, which would go on without it."""
    os.killpg(tool.pid, signal.SIGKILL)
    tool.communicate()
