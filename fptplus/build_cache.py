"""Compiled code in the user's cache folder: built once, by one process, as a whole, and checked before loading.

~/.cache/fptplus/<name>-<digest of everything it is made from>/   what was built, and `built.json` with its hashes
"""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock

COMPILERS = ("g++", "c++", "clang++")
COMPILE_LIMIT_S = 300.0
"""Time limit for a compiler; one that takes longer is assumed to hang."""

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
    try:
        result = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_LIMIT_S,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"{Path(command[0]).name} took longer than {COMPILE_LIMIT_S:g} s") from error
    except OSError as error:
        raise BuildFailed(f"{Path(command[0]).name} could not be run ({error.strerror})") from error
    if result.returncode:
        lines = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()
        told = next((line for line in lines if "error" in line.lower()), lines[0])
        raise BuildFailed(f"{Path(command[0]).name} ended with status {result.returncode}: {told.strip()}")
    return result.stdout


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
            with FileLock(cache / f"{folder.name}.lock"):
                if not _is_whole(folder):  # another process has changed it
                    _build_into(folder, build)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
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
    state = folder.stat()
    if hasattr(os, "getuid") and (state.st_uid != os.getuid() or stat.S_IMODE(state.st_mode) & 0o022):
        raise BuildFailed(
            f"the cache folder {str(folder)!r} must belong to you and be writable by nobody else; "
            "mend that (chmod go-w), or set XDG_CACHE_HOME to another"
        )
    return folder


def _build_into(folder: Path, build: Callable[[Path], None]) -> None:
    """Build next to the folder and rename, so that it is there complete or not at all."""
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".build-") as name:
        made = Path(name) / "made"
        made.mkdir()
        build(made)
        hashes = {path.name: _hash(path) for path in sorted(made.iterdir())}
        (made / _MANIFEST).write_text(json.dumps(hashes))
        for path in made.iterdir():
            _sync(path)
        made.rename(folder)


def _is_whole(folder: Path) -> bool:
    """Return whether a folder holds what was built there, byte for byte."""
    try:
        hashes = json.loads((folder / _MANIFEST).read_text())
        return bool(hashes) and all(_hash(folder / name) == digest for name, digest in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
