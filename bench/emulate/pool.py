"""Jobs on emulated cards: a process that has imported everything forks a fresh process for each job.

    this process ── jobs ──> zygote (PyTorch imported, no CUDA started) ── fork ──> a job: its card, its CUDA, its end

A fork takes hundredths of a second, a start takes seconds. No job finds anything left behind by another.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cells.alloc_conf import without_settings

from .fork import JobFailed, how_it_ended
from .launch import describe, environment

if TYPE_CHECKING:
    from bench.cards.gpus import Gpu

ROOT = Path(__file__).resolve().parents[2]
_LENGTH_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class Job:
    """A function call on a card."""

    gpu: "Gpu"
    arguments: tuple
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further environment variables of its process."""


class EmulatedPool:
    """A context manager that runs jobs on emulated cards.

    Args:
        parallel: number of jobs at a time; by default one for each processor.
        prepare: `module:function`, called once before jobs are forked, so that no job has to import what it imports.

    Raises:
        CannotEmulate: if the device cannot be compiled here.
    """

    def __init__(self, parallel: int | None = None, prepare: str = "") -> None:
        self._parallel = parallel or os.cpu_count() or 1
        self._scratch = tempfile.TemporaryDirectory(prefix="fptplus-emulated-", ignore_cleanup_errors=True)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._errors = (Path(self._scratch.name) / "zygote.txt").open("w")
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "bench.emulate.zygote", self._scratch.name, prepare],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={
                **environment(base=without_settings()),  # each job has its own card and settings
                "PYTHONPATH": path,
                "OMP_NUM_THREADS": "1",
            },
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the others
        )
        self._num_sent = 0
        self._listened_for: set[int] = set()
        self._answers: dict[int, Any] = {}
        """Answers by job number, until they are returned."""

    def __enter__(self) -> "EmulatedPool":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        os.killpg(self._zygote.pid, signal.SIGKILL)  # its input may still be open in a process forked from here
        self._zygote.wait()
        with suppress(BrokenPipeError):  # unread requests
            self._zygote.stdin.close()
        self._zygote.stdout.close()
        self._errors.close()
        self._scratch.cleanup()

    def map(self, function: Callable, jobs: Iterable[Job]) -> Iterator[Any]:
        """Yield what a function of a module returns for each job, in their order; an exception is yielded, not raised.

        Args:
            function: found by its name in the job's process.
            jobs: jobs with the function's arguments.
        """
        waiting, sent = iter(jobs), deque()
        try:
            while True:
                while self._num_open(sent) < self._parallel and (job := next(waiting, None)) is not None:
                    sent.append(self._send(function, job))
                if not sent:
                    return
                if sent[0] in self._answers:
                    yield self._answers.pop(sent.popleft())
                else:
                    self._receive()
        finally:
            self._listened_for.difference_update(sent)  # the caller may have stopped listening
            for number in sent:
                self._answers.pop(number, None)

    def _num_open(self, sent: Iterable[int]) -> int:
        return sum(number not in self._answers for number in sent)

    def _send(self, function: Callable, job: Job) -> int:
        self._num_sent += 1
        variables = {**job.environment, "EMULATED_GPU": describe(job.gpu)}
        request = pickle.dumps((self._num_sent, function, job.arguments, variables))
        try:
            self._zygote.stdin.write(len(request).to_bytes(_LENGTH_BYTES, "little") + request)
            self._zygote.stdin.flush()
        except BrokenPipeError as error:
            raise JobFailed(self._why_zygote_died()) from error
        self._listened_for.add(self._num_sent)
        return self._num_sent

    def _receive(self) -> None:
        """Wait for the next job to end; it may belong to another call of map()."""
        number, status = self._next_answer()
        result = self._result(number, status)
        if number in self._listened_for:
            self._listened_for.remove(number)
            self._answers[number] = result

    def _next_answer(self) -> tuple[int, int]:
        """Return the number and exit status of the next job that ends."""
        line = self._zygote.stdout.readline()
        if not line:
            raise JobFailed(self._why_zygote_died())
        number, status = line.split()
        return int(number), int(status)

    def _result(self, number: int, status: int) -> Any:
        path, errors = (Path(self._scratch.name) / f"{number}.{ending}" for ending in ("pickle", "txt"))
        try:
            if status == 0:
                return pickle.loads(path.read_bytes())
            return JobFailed(f"the process on the emulated card {how_it_ended(status)}: {_last_line(errors)}")
        finally:
            path.unlink(missing_ok=True)
            errors.unlink(missing_ok=True)

    def _why_zygote_died(self) -> str:
        self._errors.flush()
        return f"the process of the emulated cards has died: {_last_line(Path(self._errors.name))}"


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "nothing on its error stream"
