"""`python -m bench emulate --gpu rtx4090 -- python train.py`: whether a training script fits a card."""

import json
import sys
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path

from tyro.conf import UseAppendAction

from bench.cards.gpus import PAPER_GPU, Gpu, limited, listed_gpu
from bench.scripts.batch_size import check_name, largest_that_fits, with_option
from bench.scripts.script_run import ScriptOptions, ScriptRun, in_words, run_script
from bench.scripts.script_words import banner, summary
from bench.scripts.what_would_help import TRIAL_STEPS, as_rows, table, try_changes
from bench.units import parse_bytes
from fptplus.errors import InvalidInput
from fptplus.output_folder import writable_folder


@dataclass(frozen=True, kw_only=True)
class EmulateConfig:
    """Run a training script, unchanged, on a GPU that is not there, and say how much memory it needs.

    PyTorch's own allocator and operators run; kernels do not, so losses and metrics mean nothing. The exit status is
    the script's. Example: --gpu rtx4090 -- python train.py --epochs 1
    """

    gpu: UseAppendAction[tuple[str, ...]] = ()
    """GPU to run on; repeat to compare several. Default: a6000."""

    gpu_memory: str | None = None
    """Memory limit, e.g. 11GiB. Default: all that the GPU has."""

    gpus: int = 1
    """Number of GPUs that the machine has, for torchrun and the like."""

    stop_after_steps: int = 0
    """End the script after this many optimizer steps. Default: let it run to its end."""

    record_steps: int = 3
    """Optimizer steps in which each allocation is recorded with the line that asked for it."""

    find_batch_size: str | None = None
    """Name of the script's batch size option, without dashes: find the largest value that fits."""

    what_would_help: bool = False
    """Run the script again with each change that may save memory, and show what it saves."""

    unlimited: bool = False
    """Give the script as much memory as it asks for, to see how much it would need."""

    out: str = "emulated"
    """Folder for the reports: JSON, timeline, and a snapshot for PyTorch's memory viewer."""

    command: tuple[str, ...] = ()
    """The script's command; everything after -- is taken as it is."""

    def check(self) -> None:
        """Refuse options that cannot be used.

        Raises:
            InvalidInput: if an option is; the message names the option, the rule and the value.
        """
        if not self.command:
            raise InvalidInput(
                "emulate must be given the script's command after --, got none; for example: "
                "python -m bench emulate --gpu rtx4090 -- python train.py"
            )
        for name, least in (("gpus", 1), ("stop_after_steps", 0), ("record_steps", 0)):
            if (value := getattr(self, name)) < least:
                raise InvalidInput(f"{name.replace('_', '-')} must be at least {least}, got {value}.")
        if self.gpus > MOST_GPUS:
            raise InvalidInput(f"gpus must be at most {MOST_GPUS}, got {self.gpus}.")
        if self.find_batch_size is not None and self.what_would_help:
            raise InvalidInput(
                "what-would-help and find-batch-size must be asked one at a time, got both; find the batch size first."
            )
        if self.find_batch_size is not None:
            check_name(self.find_batch_size)

    def cards(self) -> list[Gpu]:
        """Return the cards to run on, with as much memory as may be used."""
        memory_bytes = None if self.gpu_memory is None else parse_bytes("gpu-memory", self.gpu_memory)
        return [limited(listed_gpu(name), memory_bytes) for name in dict.fromkeys(self.gpu or (PAPER_GPU,))]

    @property
    def trial_steps(self) -> int:
        """Return the number of optimizer steps in each trial of what would help."""
        return self.stop_after_steps or TRIAL_STEPS

    @property
    def options(self) -> ScriptOptions:
        """Return the options of each run."""
        return ScriptOptions(
            num_gpus=self.gpus,
            record_steps=self.record_steps,
            stop_after_steps=self.stop_after_steps,
            is_unlimited=self.unlimited,
        )


MOST_GPUS = 16
"""Largest number of cards in one emulated machine (device/device.h)."""

NOT_TOLD = ("timeline", "timeline_modules", "phases")
"""Fields of a process's report that are in its own file, and too long to read."""


def main(config: EmulateConfig) -> int:
    """Run the script on each card. Return the last non-zero exit status, or 0."""
    config.check()
    cards = config.cards()
    out = new_folder(writable_folder(config.out))
    runs, helped = [], []
    for card in cards:
        runs.append(_run(config, card, out / card.name))
        helped.append(_trials(config, card, out / card.name) if config.what_would_help else [])
        write_run(runs[-1], out / card.name, helped[-1])
    for run, rows in zip(runs, helped, strict=True):
        say(summary(run))
        for line in table(rows, config.trial_steps) if rows else ():
            say(line)
    if len(runs) > 1:
        say(_comparison(runs))
    say(f"reports in {out}")
    return next((run.exit_status for run in runs if run.exit_status), 0)


def new_folder(out: Path) -> Path:
    """Return a folder for this call alone: two hosts on one machine may begin in the same second."""
    name = f"{datetime.now():%Y-%m-%d_%H.%M.%S}"
    for number in count(1):
        folder = out / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    return None


def _run(config: EmulateConfig, card: Gpu, folder: Path) -> ScriptRun:
    say(banner(card.title))
    if config.find_batch_size is not None:
        return _largest_batch(config, card, folder)
    return run_script(config.command, card, folder, config.options)


def _trials(config: EmulateConfig, card: Gpu, folder: Path) -> list[dict]:
    """Return what each change to the script saves."""
    return as_rows(try_changes(config.command, card, folder / "what_would_help", config.options, say))


def _largest_batch(config: EmulateConfig, card: Gpu, folder: Path) -> ScriptRun:
    """Return the run with the largest batch that fits, or with a batch of 1 if none does."""
    options = replace(config.options, stop_after_steps=config.stop_after_steps or 2)
    runs: dict[int, ScriptRun] = {}

    def needs(size: int) -> int | None:
        command = with_option(config.command, config.find_batch_size, size)
        run = runs[size] = run_script(command, card, folder / f"batch_{size}", options)
        if run.exit_status and not run.ran_out_of_memory:
            raise InvalidInput(
                f"the script must run with {config.find_batch_size} {size}, it has ended with status {run.exit_status} "
                "for another reason than memory; see its output."
            )
        say(f"{config.find_batch_size} {size}: {'out of memory' if run.ran_out_of_memory else 'fits'}")
        return None if run.ran_out_of_memory else run.largest.process_bytes(run.context)

    found = largest_that_fits(needs, card.memory_bytes)
    say(f"largest {config.find_batch_size} that fits {card.title}: {found or 'none, not even 1'}")
    run = runs[found or 1]
    return replace(run, exit_status=0) if found else run


def write_run(run: ScriptRun, folder: Path, helped: list[dict] = ()) -> None:
    """Write report.json and the timeline of the largest process, as a picture and as a page.

    Args:
        run: the run.
        folder: folder of the run.
        helped: what each change to the script saves.
    """
    verdict = run.verdict
    told = {
        "command": run.command,
        "gpu": run.gpu.name,
        "memory_bytes": run.gpu.memory_bytes,
        "torch": run.torch.version,
        "exit_status": run.exit_status,
        "fits": verdict and verdict.word,
        "verdict": verdict and verdict.sentence,
        "context_bytes": run.context.typical_bytes,
        "processes": [
            {
                **{name: value for name, value in asdict(report).items() if name not in NOT_TOLD},
                "process_bytes": report.process_bytes(run.context),
            }
            for report in run.reports
        ],
        "what_would_help": list(helped),
    }
    (folder / "report.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if run.largest is not None and run.largest.timeline:
        from bench.scripts.script_timeline import write_timeline  # matplotlib takes a second to import

        write_timeline(run, folder, helped)


def _comparison(runs: list[ScriptRun]) -> str:
    lines = ["", f"{'card':<34}{'process':>12}{'of':>12}  fits"]
    for run in runs:
        needs = "" if run.largest is None else in_words(run.largest.process_bytes(run.context))
        word = "" if run.verdict is None else run.verdict.word
        lines.append(f"{run.gpu.title:<34}{needs:>12}{in_words(run.gpu.memory_bytes):>12}  {word}")
    return "\n".join(lines)


def say(text: str) -> None:
    """Print a line on standard error; standard output belongs to the script."""
    print(text, file=sys.stderr, flush=True)
