"""What would make a script need less memory: each change is tried by running the script again with it.

The trials run on a card with endless memory, so that a script which does not fit can be compared too, and each ends
after the same number of optimizer steps. Nothing is estimated.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.cards.gpus import Gpu
from bench.cells.alloc_conf import OLDER_VARIABLE, VARIABLE, in_force
from bench.units import MIB

from .batch_size import find_batch_size, with_option
from .script_run import ScriptOptions, ScriptRun, run_script
from .script_words import folded

TRIAL_STEPS = 3
"""Number of optimizer steps in a trial unless asked otherwise: the first creates the optimizer's state."""


@dataclass(frozen=True, kw_only=True)
class ScriptChange:
    """A change to a script that may save memory."""

    title: str
    names: tuple[str, ...] = ()
    """Names in inside/script_changes.py; each of them must do something."""

    variables: tuple[tuple[str, str], ...] = ()
    option: tuple[str, int] | None = None
    """An option of the script with the value to set."""

    how: str = ""
    """What is done apart from `names`."""

    reason: str = ""
    """Reason why it is not tried."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A change that was tried, or could not be."""

    change: str
    how: str = ""
    """What was done to the script."""

    reason: str = ""
    """Reason why the change cannot be applied; empty if it was."""

    run: ScriptRun | None = None
    """The changed script's run; None if the change cannot be applied."""


def try_changes(
    command: tuple[str, ...],
    gpu: Gpu,
    folder: Path,
    options: ScriptOptions,
    say: Callable[[str], None] = lambda text: None,
) -> list[Trial]:
    """Run a script as it is, then with each change, and last with all those that save memory together.

    Args:
        command: a program and its arguments.
        gpu: the card that it should fit.
        folder: folder for what the runs leave.
        options: options of the runs.
        say: told of each trial that begins.

    Returns:
        The unchanged script first; only that, with a reason, if it does not run.
    """
    steps = options.stop_after_steps or TRIAL_STEPS
    options = replace(options, stop_after_steps=steps, is_unlimited=True)

    def tried(change: ScriptChange, number: int) -> Trial:
        say(f"trying the script {change.title if number == 0 else f'with {change.title}'}")
        place = folder / f"{number}_{re.sub(r'[^a-z0-9]+', '_', change.title)}"
        return _try(command, gpu, place, change, replace(options, record_steps=0 if number else 1))

    unchanged = tried(ScriptChange(title=AS_IT_IS), 0)
    trials = [unchanged]
    if unchanged.run is None:
        return trials
    changes = list(_changes(command, unchanged.run))
    for number, change in enumerate(changes, start=1):
        trials.append(Trial(change=change.title, reason=change.reason) if change.reason else tried(change, number))
    helpful = [change for change, trial in zip(changes, trials[1:], strict=True) if _saves(trial, unchanged)]
    if len(helpful) > 1:
        trials.append(tried(_together(helpful), len(changes) + 1))
    return trials


AS_IT_IS = "as it is"


def _changes(command: tuple[str, ...], unchanged: ScriptRun) -> Iterator[ScriptChange]:
    """Yield all changes for a script that has run unchanged."""
    checkpoints = any(report.checkpoints for report in unchanged.reports)
    yield ScriptChange(
        title="gradient checkpointing",
        names=("checkpointing",),
        reason="the script checkpoints already" if checkpoints else "",
    )
    yield ScriptChange(title="fused attention", names=("fused_attention",))
    yield ScriptChange(title="bf16 autocast", names=("autocast",))
    yield _half_batch(command)
    yield ScriptChange(title="fused optimizer", names=("fused_optimizer",))
    settings, variable = in_force(None) or "", OLDER_VARIABLE if os.environ.get(OLDER_VARIABLE) else VARIABLE
    yield ScriptChange(
        title="expandable segments",
        variables=((variable, ",".join(filter(None, [settings, _EXPANDABLE]))),),
        how=f"{variable}={_EXPANDABLE}",
        reason=f"{variable} sets that already" if _EXPANDABLE in settings else "",
    )


_EXPANDABLE = "expandable_segments:True"


def _half_batch(command: tuple[str, ...]) -> ScriptChange:
    """Return the change to half of the batch twice: by the command's option if it has one, else in its DataLoader."""
    title, found = "half the batch, twice", find_batch_size(command)
    if found is None:
        return ScriptChange(title=title, names=("half_batches", "half_steps"))
    name, value = found
    if value < 2:
        return ScriptChange(title=title, reason="the batch is one sample")
    return ScriptChange(title=title, names=("half_steps",), option=(name, value // 2), how=f"{name} {value // 2}")


def _together(changes: list[ScriptChange]) -> ScriptChange:
    return ScriptChange(
        title="all that save memory",
        names=tuple(name for change in changes for name in change.names),
        variables=tuple(variable for change in changes for variable in change.variables),
        option=next((change.option for change in changes if change.option), None),
        how="together: " + ", ".join(change.title for change in changes),
    )


def _try(command: tuple[str, ...], gpu: Gpu, folder: Path, change: ScriptChange, options: ScriptOptions) -> Trial:
    """Run a script with a change; what it prints is kept in a file."""
    folder.mkdir(parents=True)
    if change.option is not None:
        command = with_option(command, *change.option)
    options = replace(options, changes=change.names, variables=change.variables, output=folder / "output.txt")
    run = run_script(command, gpu, folder, options)
    if run.exit_status:
        reason = f"with it, the script ends with status {run.exit_status}: {_last_line(options.output)}"
    elif run.largest is None:
        reason = "no process of the script has used the card"
    else:
        reason = next(filter(None, (_why_nothing(name, run) for name in change.names)), "")
    if reason:
        return Trial(change=change.title, reason=reason)
    done = [told[0] for name, told in run.largest.changes.items() if not (change.option and name == "half_steps")]
    return Trial(change=change.title, how=change.how or "; ".join(done), run=run)


def _last_line(output: Path) -> str:
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:_LONGEST] if lines else "it has printed nothing"


_LONGEST = 200


def _why_nothing(name: str, run: ScriptRun) -> str:
    """Return why a change has done nothing in any process; empty if it has done something."""
    told = [report.changes[name] for report in run.reports if name in report.changes]
    return "" if any(done for done, _ in told) else next((reason for _, reason in told), "it has reached no process")


def _saves(trial: Trial, unchanged: Trial) -> bool:
    return trial.run is not None and any(saved > 0 for saved in saved_bytes(trial, unchanged))


def saved_bytes(trial: Trial, unchanged: Trial) -> tuple[int, int]:
    """Return how many bytes a change saves of allocated and of reserved memory at their peaks; negative if it costs."""
    before, after = unchanged.run.largest, trial.run.largest
    return (
        before.peak_allocated_bytes - after.peak_allocated_bytes,
        before.peak_reserved_bytes - after.peak_reserved_bytes,
    )


def as_rows(trials: list[Trial]) -> list[dict]:
    """Return trials as they stand in report.json: sizes in bytes, None where a change was not applied."""
    rows = []
    for trial in trials:
        row = {"change": trial.change, "how": trial.how, "reason": trial.reason}
        if trial.run is not None:
            report, (allocated, reserved) = trial.run.largest, saved_bytes(trial, trials[0])
            row |= {
                "peak_allocated_bytes": report.peak_allocated_bytes,
                "peak_reserved_bytes": report.peak_reserved_bytes,
                "saved_allocated_bytes": allocated,
                "saved_reserved_bytes": reserved,
                "process_bytes": report.process_bytes(trial.run.context),
                "fits": trial.run.verdict.word,
            }
        rows.append(row)
    return rows


def table(rows: list[dict], steps: int) -> Iterator[str]:
    """Yield the lines of a table, at most 80 columns wide, then what was done and what could not be.

    Args:
        rows: from as_rows.
        steps: number of optimizer steps in each trial.
    """
    yield f"what would help, each tried by running the script again for {steps} steps (MiB)"
    yield f"  {'':24}{'allocated':>10}{'saved':>9}{'reserved':>10}{'saved':>9}  fits"
    for row in rows:
        if row["reason"]:
            continue
        sizes = [row[f"{name}_bytes"] / MIB for name in ("peak_allocated", "saved_allocated")]
        sizes += [row[f"{name}_bytes"] / MIB for name in ("peak_reserved", "saved_reserved")]
        first, saved, second, saved_too = (f"{round(size):,}" for size in sizes)
        if row is rows[0]:
            saved = saved_too = ""
        yield f"  {row['change']:24}{first:>10}{saved:>9}{second:>10}{saved_too:>9}  {row['fits']}"
    for row in rows:
        if row["how"]:
            yield from folded(f"{row['change']}: {row['how']}", indent="  ")
    for row in rows:
        if row["reason"]:
            yield from folded(f"{row['change']} cannot be tried: {row['reason']}", indent="  ")
