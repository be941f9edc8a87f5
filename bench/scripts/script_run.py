"""Run a command whose CUDA devices are emulated cards, and collect its processes' reports on their memory."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cards.contexts import ContextSize, context_of
from bench.cards.gpus import Gpu, endless
from bench.cards.verdict import Verdict
from bench.emulate.build import TorchInstall
from bench.emulate.launch import describe, environment
from bench.units import GIB, MIB

from .script_python import torch_of
from .script_report import ProcessReport, read_reports

INSIDE = Path(__file__).parent / "inside"
"""Folder of the modules that each process of the script imports first."""

_KILLED_BY = 128
"""A shell's exit status for a program ended by a signal is this plus the signal's number."""


@dataclass(frozen=True, kw_only=True)
class ScriptOptions:
    """How a script is run and watched."""

    num_gpus: int = 1
    """Number of cards in the machine."""

    record_steps: int = 3
    """Number of optimizer steps whose allocations are recorded with the lines that asked for them."""

    stop_after_steps: int = 0
    """Number of optimizer steps after which the script is ended; 0 lets it run."""

    is_unlimited: bool = False
    """Whether the card has as much memory as the script asks for, to see what it would need."""

    changes: tuple[str, ...] = ()
    """Names of changes to the script that are tried (inside/script_changes.py)."""

    variables: tuple[tuple[str, str], ...] = ()
    """Further environment variables, with their values."""

    output: Path | None = None
    """File for the script's output and errors, which then has no input; by default it has this process's."""


@dataclass(frozen=True, kw_only=True)
class ScriptRun:
    """Outcome of a script that ran on an emulated card."""

    command: tuple[str, ...]
    gpu: Gpu
    torch: TorchInstall
    exit_status: int
    reports: list[ProcessReport]
    """Reports of the processes that used a card; empty if none did."""

    @property
    def context(self) -> ContextSize:
        """CUDA context of one process."""
        return context_of(self.gpu, self.torch.cuda)

    @property
    def largest(self) -> ProcessReport | None:
        """Return the process that takes the most memory."""
        return max(self.reports, key=lambda report: report.peak_reserved_bytes, default=None)

    @property
    def signal(self) -> str:
        """Return the name of the signal that ended the command; empty if it ended by itself."""
        number = self.exit_status - _KILLED_BY
        return signal.Signals(number).name if number in set(signal.Signals) else ""

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether an allocation failed and the script did not survive it."""
        return self.exit_status != 0 and any(report.out_of_memory for report in self.reports)

    @property
    def verdict(self) -> Verdict | None:
        """Return whether the largest process fits; None if no process used a card."""
        if self.largest is None:
            return None
        if self.ran_out_of_memory:
            failed = next(report for report in self.reports if report.out_of_memory)
            place = failed.out_of_memory[-1]
            wanted, memory = in_words(place.wanted_bytes), in_words(self.gpu.memory_bytes)
            sentence = f"out of memory: {place}; it asked for {wanted} more than is left of the card's {memory}"
            return Verdict(word="no", sentence=sentence)
        return self.largest.verdict(self.gpu, self.context)


def run_script(command: tuple[str, ...], gpu: Gpu, folder: Path, options: ScriptOptions) -> ScriptRun:
    """Run a command to its end, with this process's input, output and working directory.

    Args:
        command: a program and its arguments.
        gpu: the card of each device.
        folder: folder for the reports of its processes, and everything else that the run leaves.
        options: options of the run.

    Raises:
        InvalidInput: if the program is not found or has no PyTorch.
        CannotEmulate: if its PyTorch cannot be emulated.
    """
    torch = torch_of(command)
    folder.mkdir(parents=True, exist_ok=True)
    variables = script_environment(torch, gpu, folder, options)
    with _interrupts_left_to_the_script(), _streams(options.output) as streams:
        status = _run(command, variables, streams)
    (folder / "processes").unlink(missing_ok=True)
    return ScriptRun(
        command=command,
        gpu=gpu,
        torch=torch,
        exit_status=status if status >= 0 else _KILLED_BY - status,
        reports=read_reports(folder),
    )


def script_environment(torch: TorchInstall, gpu: Gpu, folder: Path, options: ScriptOptions) -> dict[str, str]:
    """Return the environment variables for a process of a watched script."""
    card = endless(gpu) if options.is_unlimited else gpu
    base = environment(count=options.num_gpus, state=folder.resolve() / "processes", torch_folder=torch.folder)
    paths = os.pathsep.join(filter(None, [str(INSIDE), os.environ.get("PYTHONPATH")]))
    return base | {
        "EMULATED_GPU": describe(card, context_of(gpu, torch.cuda).typical_bytes),
        "EMULATED_REPORTS": str(folder.resolve()),
        "EMULATED_RECORD_STEPS": str(options.record_steps),
        "EMULATED_STOP_AFTER_STEPS": str(options.stop_after_steps),
        "EMULATED_CHANGES": ",".join(options.changes),
        "PYTHONPATH": paths,
        **dict(options.variables),
    }


def _run(command: tuple[str, ...], variables: dict[str, str], streams: dict[str, int]) -> int:
    """Run a command to its end; if this process is told to end, so is the command, which then ends its children."""
    with subprocess.Popen(command, env=variables, **streams) as process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(_END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


_END_LIMIT_S = 10.0
"""Seconds that a command has to end when it is told to."""


@contextmanager
def _streams(output: Path | None) -> Iterator[dict[str, int]]:
    if output is None:
        yield {}
        return
    with output.open("wb") as file:
        yield {"stdin": subprocess.DEVNULL, "stdout": file.fileno(), "stderr": subprocess.STDOUT}


@contextmanager
def _interrupts_left_to_the_script() -> Iterator[None]:
    """Leave Ctrl-C, which reaches the whole group of processes, to the script.

    A handler does that, since a signal that is ignored here would be ignored in the script too.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def in_words(num_bytes: int) -> str:
    """Return a size as 3.1 GiB, or as 310 MiB below one GiB."""
    return f"{num_bytes / GIB:,.1f} GiB" if num_bytes >= GIB else f"{num_bytes / MIB:,.0f} MiB"
