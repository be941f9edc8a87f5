"""A function of yours on a GPU that is not there, from Python.

with emulated("rtx4090") as gpu:
    called = gpu.run(train_one_step, batch_size=32)
assert called.fits, called.verdict.sentence
assert called.report.peak_allocated_bytes < 20 * 2**30
"""

import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import getsourcefile
from pathlib import Path
from typing import Any

from bench.cards.gpus import GPUS, Gpu, find_gpu
from bench.cards.verdict import Verdict
from bench.units import parse_bytes
from fptplus.errors import InvalidInput

from .script_report import ProcessReport
from .script_run import INSIDE, ScriptOptions, ScriptRun, run_script

_CALLER = INSIDE / "call_function.py"


class FunctionFailed(RuntimeError):
    """The function has raised an error that is not of memory; its traceback is on the error stream."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """A function that has run on an emulated GPU."""

    value: Any
    """What it returned; None where memory ran out."""

    run: ScriptRun

    @property
    def fits(self) -> bool:
        """Whether memory sufficed, also with the largest CUDA context that is known of the card."""
        return self.verdict.word == "yes"

    @property
    def verdict(self) -> Verdict:
        """Whether it fits, and why."""
        return self.run.verdict

    @property
    def report(self) -> ProcessReport:
        """What its process has taken."""
        return self.run.largest


@dataclass(frozen=True)
class EmulatedGpu:
    """A card to call functions on."""

    gpu: Gpu
    folder: Path
    options: ScriptOptions

    def run(self, function: Callable, *arguments: object, **named: object) -> Call:
        """Call a function in a process of its own whose CUDA device is the card.

        Args:
            function: of a module or a file, found there by its name; no lambda, no method of an object.
            arguments, named: to call it with; they are pickled.

        Raises:
            InvalidInput: if the function cannot be found by its name.
            FunctionFailed: if it raises anything but torch.OutOfMemoryError, or never uses the card.
        """
        folder = Path(tempfile.mkdtemp(prefix=f"{function.__name__}-", dir=self.folder))
        request, answer = folder / "request.pickle", folder / "answer.pickle"
        request.write_bytes(pickle.dumps((*_found_by(function), arguments, named, list(sys.path))))
        command = (sys.executable, str(_CALLER), str(request), str(answer))
        run = run_script(command, self.gpu, folder, self.options)
        if run.exit_status and not run.ran_out_of_memory:
            raise FunctionFailed(f"{function.__name__} has failed on the emulated {self.gpu.title}; see its traceback.")
        if not run.reports:
            raise FunctionFailed(f"{function.__name__} must use the CUDA device, it has used none.")
        return Call(value=pickle.loads(answer.read_bytes()) if answer.exists() else None, run=run)


def _found_by(function: Callable) -> tuple[str, str, str]:
    """Module, file and name that a function is found by in another process."""
    name, path = function.__qualname__, getsourcefile(function)
    if "<" in name or path is None:
        raise InvalidInput(f"function must be one of a module, found by its name, got {name}; move it out.")
    return function.__module__, os.path.abspath(path), name  # noqa: PTH100, a link keeps its name


@contextmanager
def emulated(gpu: str = "a6000", *, memory: str | None = None, num_gpus: int = 1) -> Iterator[EmulatedGpu]:
    """A GPU that is not there.

    Args:
        gpu: a name of the catalogue, such as rtx4090 or a100-80gb.
        memory: limit such as 11GiB; all that the card has by default.
        num_gpus: cards that the machine has.

    Raises:
        InvalidInput: if there is no such card, or the limit is no size.
    """
    card = GPUS.get(gpu) or find_gpu(gpu)
    if memory is not None:
        card = replace(card, memory_bytes=parse_bytes("memory", memory))
    with tempfile.TemporaryDirectory(prefix="emulated-gpu-") as folder:
        yield EmulatedGpu(card, Path(folder), ScriptOptions(num_gpus=num_gpus))
