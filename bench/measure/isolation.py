"""Run one cell in a fresh process; the cause of its death becomes the status of the record."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from bench.cells import alloc_conf
from bench.cells.config import CellConfig
from bench.records.measured_columns import Reading
from fptplus.own_folder import own_folder

from .failure_log import KeepLog, forget, with_log
from .journal import Story, read_journal
from .measure import Budget

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "bench.measure.cell_process")


def run_isolated(
    cell: CellConfig,
    budget: Budget,
    on_phase: Callable[[str], None] = lambda phase: None,
    cut_s: float | None = None,
    keep_log: KeepLog = forget,
) -> Reading | None:
    """Measure a cell in a process of its own.

    Args:
        cell: a cell with a device.
        budget: time limits; its timeout ends the process.
        on_phase: is told the name of each phase as it begins, from another thread.
        cut_s: seconds after which the process is ended as if the cell had not begun; None for never.
        keep_log: is given the standard error of a cell that failed.

    Returns:
        The columns of the record, with everything found before a death; None if the cell was cut off.
    """
    with own_folder(Path(tempfile.gettempdir()), "fptplus-bench-", mode=0o700) as scratch:
        errors_path = scratch / "stderr.txt"
        with errors_path.open("w") as error_stream:
            process = _start(cell, budget, str(scratch), error_stream)
        stories = [Story()]
        reader = threading.Thread(target=_follow, args=(process, stories, on_phase), daemon=True)
        reader.start()
        is_cut_first = cut_s is not None and cut_s <= budget.timeout_s
        try:
            is_late = not _ends_within(process, cut_s if is_cut_first else budget.timeout_s)
        finally:
            _end(process)
            reader.join()
            process.stdin.close()
            process.stdout.close()
        if is_late and is_cut_first:
            return None
        errors = errors_path.read_text(errors="replace")
        too_long = f"took longer than {budget.timeout_s:g} s (--timeout-s)"
        reading = _ended(stories[-1], too_long) if is_late else _outcome(stories[-1], process.returncode, errors)
        return with_log(reading, errors, keep_log) if reading.get("status") == "failed" else reading


def _start(cell: CellConfig, budget: Budget, scratch: str, error_stream: TextIO) -> subprocess.Popen:
    """Start the process with its job on its input, which stays open for as long as this process lives."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=error_stream,
        text=True,
        env={**alloc_conf.process_environment(cell.alloc_conf), "PYTHONPATH": path},
        start_new_session=True,  # Ctrl-C reaches only the sweep, which ends its cell itself
    )
    job = {"cell": asdict(cell), "budget": asdict(budget), "scratch": scratch}
    try:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has died already; its status says why
    return process


def _follow(process: subprocess.Popen, stories: list[Story], on_phase: Callable[[str], None]) -> None:
    phase = None
    for story in read_journal(process.stdout):
        stories.append(story)
        if story.phase != phase:
            on_phase(phase := story.phase)


def _ends_within(process: subprocess.Popen, limit_s: float) -> bool:
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen) -> None:
    """End the process with everything that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _outcome(story: Story, returncode: int, errors: str) -> Reading:
    if story.has_ended and returncode == 0:
        details = [*filter(None, [story.columns.get("status_detail")]), *story.notes]
        return story.columns | ({"status_detail": "; ".join(details)} if details else {})
    if returncode < 0:
        name = signal.Signals(-returncode).name
        hint = ", as the system does when the computer's own memory runs out" if name == "SIGKILL" else ""
        return _ended(story, f"killed by {name}{hint}")
    last = (errors.strip().splitlines() or ["nothing on its error stream"])[-1]
    return _ended(story, f"its process ended with status {returncode}: {last}")


def _ended(story: Story, reason: str) -> Reading:
    """Return what was found before the end, with the reason for the end."""
    return story.columns | {
        "status": "failed",
        "status_detail": "; ".join([f"{reason}, {story.where}", *story.notes]),
        "ended_in_phase": story.phase,
        "last_peak_allocated_bytes": story.peak_allocated_bytes,
    }
