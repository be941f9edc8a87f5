"""What the processes of a watched script have told of their memory, and whether it fits."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.cards.contexts import ContextSize
from bench.cards.gpus import Gpu
from bench.cards.verdict import Verdict, verdict

KINDS = ("weights", "gradients", "optimizer", "buffers", "activations", "temporary", "other")
"""What a block of memory is for; as in inside/script_watch.py, which imports nothing."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where memory is asked for."""

    step: int
    """From 1: the optimizer step that it is a part of."""

    phase: str
    """setup, forward, backward or optimizer."""

    line: str
    """The user's, as train.py:12 (main)."""

    inner: str = ""
    """The library's line that it came to."""

    def __str__(self) -> str:
        within = f", in {self.inner}" if self.inner else ""
        return f"step {self.step}, {self.phase}, {self.line or 'an unknown line'}{within}"


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A block in use at the peak."""

    num_bytes: int
    kind: str
    name: str
    """Of the parameter, gradient, state or buffer; empty for others."""

    line: str
    inner: str


@dataclass(frozen=True, kw_only=True)
class ProcessReport:
    """One process that has used the card."""

    pid: int
    rank: int
    device: int
    gpu: str
    torch: str
    ended: str
    """ended, stopped, running (it was killed), or the error that nobody caught."""

    num_steps: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    peak_by_step: list[int]
    """Allocated, from the first step to the n-th."""

    retries: int
    """Times that the allocator has emptied its cache to find room."""

    kernel_launches: int
    unanswered: str
    """Functions that the emulated device had no answer to."""

    out_of_memory: list[Place]
    peak_place: Place | None = None
    """Of the recorded steps; None where nothing was recorded."""

    peak_is_recorded: bool = False
    """Whether the peak of the whole run lies in the recorded steps."""

    by_kind: dict[str, int] = field(default_factory=dict)
    """Bytes at the recorded peak."""

    largest: list[Tensor] = field(default_factory=list)
    timeline: list[list[int]] = field(default_factory=list)
    """Rows of time in µs and the bytes of each of KINDS."""

    phases: list[tuple[int, int, str]] = field(default_factory=list)
    """Since when in µs, step, phase."""

    @property
    def fragmentation(self) -> float:
        """Share of what is reserved at its peak that was never allocated at once."""
        return 1 - self.peak_allocated_bytes / self.peak_reserved_bytes if self.peak_reserved_bytes else 0.0

    def process_bytes(self, context: ContextSize) -> int:
        """What the process takes of the card."""
        return self.peak_reserved_bytes + context.typical_bytes

    def verdict(self, gpu: Gpu, context: ContextSize) -> Verdict:
        """Whether it fits a card that it shares with nobody."""
        return verdict(self.peak_reserved_bytes, gpu, context)


def read_reports(folder: Path) -> list[ProcessReport]:
    """The reports of all processes that have used a card, by rank and process."""
    return sorted(_read(folder), key=lambda report: (report.rank, report.pid))


def _read(folder: Path) -> Iterator[ProcessReport]:
    for path in folder.glob("*.json"):
        if path.stem.isdecimal():
            yield _report(json.loads(path.read_text(encoding="utf-8")))


def _report(told: dict[str, Any]) -> ProcessReport:
    recorded = told["recorded"] or {}
    peak = recorded.get("peak")
    names = ("pid", "rank", "device", "gpu", "torch", "ended", "num_steps", "peak_by_step", "kernel_launches")
    report = {name: told[name] for name in (*names, "unanswered")}
    report |= {f"peak_{name}": told["peak"][name] for name in ("allocated_bytes", "reserved_bytes")}
    report["retries"] = told["peak"]["retries"]
    report["out_of_memory"] = [
        Place(step=one["step"], phase=one["phase"], line=one["line"]) for one in told["out_of_memory"]
    ]
    if peak is None:
        return ProcessReport(**report)
    return ProcessReport(
        **report,
        peak_place=Place(**{name: peak[name] for name in ("step", "phase", "line", "inner")}),
        peak_is_recorded=recorded["allocated_bytes"] == told["peak"]["allocated_bytes"],
        by_kind=peak["by_kind"],
        largest=[Tensor(**one) for one in peak["largest"]],
        timeline=recorded["timeline"],
        phases=[tuple(phase) for phase in recorded["phases"]],
    )
