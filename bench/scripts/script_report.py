"""What the processes of a watched script reported about their memory, and whether it fits."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cards.contexts import ContextSize
from bench.cards.gpus import Gpu
from bench.cards.verdict import Verdict, verdict

KINDS = ("weights", "gradients", "optimizer", "buffers", "activations", "temporary", "other")
"""Kinds of memory blocks; the same as in inside/script_watch.py, which cannot import this module."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Place where memory is requested."""

    step: int
    """Optimizer step that it is a part of, counted from 1."""

    phase: str
    """Phase: setup, forward, backward or optimizer."""

    line: str
    """The user's line, as train.py:12 (main)."""

    inner: str = ""
    """The library's line that the user's line led to."""

    module: str = ""
    """Name of the module whose forward pass asked, or whose backward pass did."""

    wanted_bytes: int = 0
    """Size of the allocation that failed there; 0 if none did."""

    def __str__(self) -> str:
        within = "".join(f", in {where}" for where in (self.module, self.inner) if where)
        return f"step {self.step}, {self.phase}, {self.line or 'an unknown line'}{within}"


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A block in use at the peak."""

    num_bytes: int
    kind: str
    name: str
    """Name of the parameter, gradient, state or buffer; empty for other blocks."""

    line: str
    """The user's line; in the backward pass, that of the module's forward pass."""

    inner: str
    module: str
    """Name of the module that it belongs to: whose parameter it is, or whose forward or backward pass asked for it."""

    phase: str
    """Phase in which it was asked for."""


@dataclass(frozen=True, kw_only=True)
class ProcessReport:
    """One process that used the card."""

    pid: int
    rank: int
    device: int
    gpu: str
    torch: str
    ended: str
    """How it ended: ended, stopped, running (it was killed), or the error that nobody caught."""

    num_steps: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    peak_by_step: list[int]
    """Peak allocated memory of each step, from the first to the n-th."""

    retries: int
    """Number of times that the allocator emptied its cache to find room."""

    kernel_launches: int
    waits_at: str
    """The user's line where no kernel was launched for so long that it may have waited in vain; empty if never."""

    unanswered: str
    """Functions that the emulated device had no answer to."""

    unknown_scratch: str
    """Kinds of operators whose scratch memory only NVIDIA's library knows; it is not included."""

    out_of_memory: list[Place]
    checkpoints: bool
    """Whether the backward pass of a recorded step has called modules again."""

    changes: dict[str, tuple[str, str]]
    """What each change that was tried has done, and the reason if it has done nothing."""

    peak_place: Place | None = None
    """Place of the peak within the recorded steps; None if nothing was recorded."""

    peak_is_recorded: bool = False
    """Whether the peak of the whole run lies within the recorded steps."""

    by_kind: dict[str, int] = field(default_factory=dict)
    """Bytes of each kind at the recorded peak."""

    by_module: dict[str, int] = field(default_factory=dict, repr=False)
    """Bytes of each module, without those inside it, at the recorded peak."""

    largest: list[Tensor] = field(default_factory=list, repr=False)
    timeline: list[list[int]] = field(default_factory=list, repr=False)
    """Rows with the time in µs and the bytes of each of KINDS."""

    timeline_modules: dict[str, list] = field(default_factory=dict, repr=False)
    """The names of groups of modules, and the bytes of each for the rows of the timeline."""

    phases: list[tuple[int, int, str]] = field(default_factory=list, repr=False)
    """Beginning in µs, step and name of each phase."""

    @property
    def fragmentation(self) -> float:
        """Return the share of peak reserved memory that was never allocated at once."""
        return 1 - self.peak_allocated_bytes / self.peak_reserved_bytes if self.peak_reserved_bytes else 0.0

    def process_bytes(self, context: ContextSize) -> int:
        """Return the memory that the process takes on the card."""
        return self.peak_reserved_bytes + context.typical_bytes

    def verdict(self, gpu: Gpu, context: ContextSize) -> Verdict:
        """Whether it fits a card that it shares with no other process."""
        return verdict(self.peak_reserved_bytes, gpu, context)


def read_reports(folder: Path) -> list[ProcessReport]:
    """Return the reports of all processes that used a card, by rank and process."""
    return sorted(_read(folder), key=lambda report: (report.rank, report.pid))


def _read(folder: Path) -> Iterator[ProcessReport]:
    for path in folder.glob("*.json"):
        if path.stem.isdecimal():
            yield _report(json.loads(path.read_text(encoding="utf-8")))


def _report(told: dict[str, Any]) -> ProcessReport:
    recorded = told["recorded"] or {}
    peak = recorded.get("peak")
    names = ("pid", "rank", "device", "gpu", "torch", "ended", "num_steps", "peak_by_step", "kernel_launches")
    names += ("checkpoints", "changes", "waits_at", "unanswered", "unknown_scratch")
    report = {name: told[name] for name in names}
    report |= {f"peak_{name}": told["peak"][name] for name in ("allocated_bytes", "reserved_bytes")}
    report["retries"] = told["peak"]["retries"]
    report["out_of_memory"] = [
        Place(**{name: one[name] for name in ("step", "phase", "line", "wanted_bytes")})
        for one in told["out_of_memory"]
    ]
    if peak is None:
        return ProcessReport(**report)
    return ProcessReport(
        **report,
        peak_place=Place(**{name: peak[name] for name in ("step", "phase", "line", "inner", "module")}),
        peak_is_recorded=recorded["allocated_bytes"] == told["peak"]["allocated_bytes"],
        by_kind=peak["by_kind"],
        by_module=peak["by_module"],
        largest=[Tensor(**one) for one in peak["largest"]],
        timeline=recorded["timeline"],
        timeline_modules=recorded["timeline_modules"],
        phases=[tuple(phase) for phase in recorded["phases"]],
    )
