"""Which PyTorch a command will import: that of the Python it runs, in any environment."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from bench.emulate.build import TorchInstall, find_torch
from fptplus.errors import InvalidInput

_ASK = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s else '')"
_ASK_LIMIT_S = 60.0


def find_executable(command: tuple[str, ...]) -> Path:
    """Return the program that a command runs.

    Raises:
        InvalidInput: if the program does not exist.
    """
    found = shutil.which(command[0])
    if found is None:
        raise InvalidInput(f"the command after -- must start with a program, {command[0]!r} is none; check its name.")
    return Path(found)


def torch_of(command: tuple[str, ...]) -> TorchInstall:
    """Return the PyTorch of a command's Python.

    Raises:
        InvalidInput: if the program is not found, is not a Python program, or has no PyTorch.
        CannotEmulate: if its PyTorch cannot be emulated.
    """
    program = find_executable(command)
    if python := _python_of(program):
        if python.resolve() == Path(sys.executable).resolve() and python.parent == Path(sys.executable).parent:
            return find_torch()
        origin = _origin(python)
        if not origin:
            raise InvalidInput(f"the command's Python must have PyTorch, {python} has none; install it there.")
        return find_torch(Path(origin).parent)
    return find_torch()  # a shell script, make, …: the Python that it will call is unknown, and ours is the best guess


def _python_of(program: Path) -> Path | None:
    """Return the program if it is a Python interpreter, or the interpreter that a script names in its first line."""
    if program.name.startswith("python"):
        return program
    with program.open("rb") as file:
        first = file.readline(512)
    if not first.startswith(b"#!"):
        return None
    words = first[2:].decode(errors="replace").split()
    if words and words[0].endswith("/env"):
        found = shutil.which(words[-1])
        words = [found] if found else []
    return Path(words[0]) if words and Path(words[0]).name.startswith("python") else None


@cache
def _origin(python: Path) -> str:
    """Return where a Python finds PyTorch; empty if nowhere."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or value}
    answer = subprocess.run(
        [python, "-c", _ASK], capture_output=True, text=True, timeout=_ASK_LIMIT_S, env=environment, check=False
    )
    return answer.stdout.strip()
