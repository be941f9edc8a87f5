"""Process from which jobs on emulated cards are forked: `python -m bench.emulate.zygote FOLDER [MODULE:FUNCTION]`.

Requests arrive on its input, pickled and preceded by their length. When a job ends, its number and exit status go to
the output. It never starts CUDA itself, so each job starts CUDA with a card of its own.
"""

import os
import pickle
import select
import shutil
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from fptplus.front_door import imports_uncollected

from .device_state import load_planner
from .fork import pickled_answer

_LENGTH_BYTES = 8


def main(folder: Path, function: str = "") -> None:
    """Serve requests until the input closes."""
    with imports_uncollected():
        _prepare(function)
    requests, answers = os.dup(sys.stdin.fileno()), os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that nothing a job prints is taken for an answer
    running: dict[int, tuple[int, int]] = {}  # process and job, by process file descriptor
    poll = select.poll()
    poll.register(requests, select.POLLIN | select.POLLHUP)
    while True:
        for ready, _ in poll.poll():
            if ready != requests:
                poll.unregister(ready)
                pid, number = running.pop(ready)
                os.close(ready)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                print(number, status, file=answers, flush=True)
            elif (request := _read(requests)) is not None:
                number, pid = _fork(request, folder, [requests, *running])
                handle = os.pidfd_open(pid)
                running[handle] = pid, number
                poll.register(handle, select.POLLIN)
            else:
                shutil.rmtree(folder, ignore_errors=True)  # whoever made it may have been killed
                os.killpg(os.getpgrp(), signal.SIGKILL)  # all forked processes, and this one


def _prepare(function: str) -> None:
    """Import PyTorch and call a function, so that no job has to import what it imports."""
    import torch

    load_planner()
    torch.set_num_threads(1)  # each processor has its own job
    if function:
        module, _, name = function.partition(":")
        getattr(import_module(module), name)()


def _read(requests: int) -> bytes | None:
    """Return the next request; None if there will be no more."""
    length = _read_exactly(requests, _LENGTH_BYTES)
    return None if length is None else _read_exactly(requests, int.from_bytes(length, "little"))


def _read_exactly(file: int, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        part = os.read(file, count - len(data))
        if not part:
            return None
        data += part
    return data


def _fork(request: bytes, folder: Path, files: list[int]) -> tuple[int, int]:
    """Fork the process of a request; return the job's number and the process."""
    number, function, arguments, variables = pickle.loads(request)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for file in files:
                os.close(file)
            _run(function, arguments, variables, folder / f"{number}.txt", folder / f"{number}.pickle")
            status = 0
        finally:
            os._exit(status)
    return number, pid


def _run(function: Callable, arguments: tuple, variables: dict[str, str], errors: Path, result: Path) -> None:
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), sys.stderr.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.environ.update(variables)
    result.write_bytes(pickled_answer(function, arguments))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
