"""Call your own function on an emulated GPU, from Python.

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
from dataclasses import dataclass, field
from inspect import getsourcefile
from pathlib import Path
from typing import Any

from bench.cards.gpus import Gpu, limited, listed_gpu
from bench.cards.verdict import Verdict
from bench.units import parse_bytes
from fptplus.errors import InvalidInput

from .script_report import ProcessReport
from .script_run import INSIDE, ScriptOptions, ScriptRun, run_script

_CALLER = INSIDE / "call_function.py"


class FunctionFailed(RuntimeError):
    """The function raised an error not caused by memory; its traceback is on standard error."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """Result of a function that ran on an emulated GPU."""

    value: Any
    """Return value of the function; None if memory ran out."""

    run: ScriptRun = field(repr=False)

    @property
    def fits(self) -> bool:
        """Whether memory sufficed, even with the largest CUDA context that is known for the card."""
        return self.verdict.word == "yes"

    @property
    def verdict(self) -> Verdict:
        """Whether it fits, and why."""
        return self.run.verdict

    @property
    def report(self) -> ProcessReport:
        """Memory report of its process."""
        return self.run.largest


@dataclass(frozen=True)
class EmulatedGpu:
    """A card to call functions on."""

    gpu: Gpu
    folder: Path
    options: ScriptOptions

    def run(self, function: Callable, *arguments: object, **named: object) -> Call:
        """Call a function in a process of its own, whose CUDA device is the card.

        Args:
            function: function of a module or a file, found there by its name; not a lambda, not a method of an object.
            arguments, named: arguments of the call; they are pickled.

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
    """Return the module, file and name by which another process finds a function."""
    name, path = function.__qualname__, getsourcefile(function)
    if "<" in name or path is None:
        raise InvalidInput(f"function must be one of a module, found by its name, got {name}; move it out.")
    return function.__module__, os.path.abspath(path), name  # noqa: PTH100, a link keeps its name


@contextmanager
def emulated(gpu: str = "a6000", *, memory: str | None = None, num_gpus: int = 1) -> Iterator[EmulatedGpu]:
    """Yield an emulated GPU.

    Args:
        gpu: a name from the catalogue, such as rtx4090 or a100-80gb.
        memory: memory limit, e.g. 11GiB; by default all of the card's memory.
        num_gpus: number of cards in the machine.

    Raises:
        InvalidInput: if there is no such card, or the limit is not a size.
    """
    card = limited(listed_gpu(gpu), None if memory is None else parse_bytes("memory", memory))
    with tempfile.TemporaryDirectory(prefix="emulated-gpu-") as folder:
        yield EmulatedGpu(card, Path(folder), ScriptOptions(num_gpus=num_gpus))
