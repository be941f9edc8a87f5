"""Compare published measurements with the same scripts on emulated cards, and judge the differences."""

import csv
import math
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

import torch

from bench.cards.gpus import GPUS
from bench.units import MIB

from .emulations import Emulated
from .measurements import Measurement

BARS_PCT = {"max_memory_allocated": 0.2, "max_memory_reserved": 1.0}
"""Largest error in percent of an emulated figure, beyond the rounding of the print; other counters have no such bar."""


@dataclass(frozen=True, kw_only=True)
class HeldMeasurement:
    """One row of `memory.csv`, with what was emulated for it."""

    measurement: Measurement
    emulated: Emulated | None

    @property
    def emulated_mib(self) -> float | None:
        """Return what the row's counter would show, with a CUDA context of typical size if it counts that."""
        if self.emulated is None:
            return None
        peaks, counter = self.emulated.peaks, self.measurement.counter
        if counter in ("max_memory_allocated", "not stated"):
            return peaks.allocated_bytes / MIB
        context = self.emulated.context
        return (peaks.reserved_bytes + (context.typical_bytes if context else 0)) / MIB

    @property
    def range_mib(self) -> tuple[float, float] | None:
        """Return the range over the possible sizes of the CUDA context; None if the counter does not include it."""
        if self.emulated is None or self.emulated.context is None:
            return None
        reserved, context = self.emulated.peaks.reserved_bytes, self.emulated.context
        return (reserved + context.low_bytes) / MIB, (reserved + context.high_bytes) / MIB

    @property
    def error_pct(self) -> float | None:
        """Return the error of emulated against measured; a bound has none."""
        if self.emulated_mib is None or self.measurement.is_bound:
            return None
        return 100 * (self.emulated_mib / self.measurement.measured_mib - 1)

    @property
    def bar_pct(self) -> float | None:
        """Return how close it has to be; None if the source leaves something open or the counter has no bar."""
        return None if self.measurement.not_stated else BARS_PCT.get(self.measurement.counter)

    @property
    def verdict(self) -> str:
        """Return `within` or `beyond` its bar; for a bound the emulated outcome, `undecided` if contexts disagree."""
        if self.emulated is None:
            return ""
        if self.measurement.is_bound:
            ran = set(self.emulated.ran_with)
            return "undecided" if len(ran) > 1 else "ran" if ran.pop() else "did not run"
        if self.bar_pct is None:
            return ""
        row = self.measurement
        allowed_mib = self.bar_pct / 100 * row.measured_mib + row.rounding_mib
        return "within" if abs(self.emulated_mib - row.measured_mib) <= allowed_mib else "beyond"

    @property
    def is_met(self) -> bool | None:
        """Whether the emulated card agrees; None if it is not judged, or the context decides."""
        if self.verdict in ("", "undecided"):
            return None
        return self.verdict in ("within", self.measurement.counter)

    @property
    def reason(self) -> str:
        """Return why a row is not judged, or not met."""
        row = self.measurement
        if row.not_stated:
            return f"not stated: {row.not_stated}"
        if self.verdict == "undecided":
            return "the size of the CUDA context decides"
        if self.verdict == "beyond" and self.emulated.peaks.unknown_workspaces:
            return f"scratch memory inside cuDNN is not known: {self.emulated.peaks.unknown_workspaces}"
        return ""


def write_comparisons(comparisons: list[HeldMeasurement], path: Path) -> None:
    """Write a row for each measurement: its columns, then what was emulated; unknown values are empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [_formatted(comparison_row(one)) for one in comparisons]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def comparison_row(one: HeldMeasurement) -> dict[str, str | int | float | None]:
    """Return a measurement and what was emulated for it; unknown values are None."""
    row, emulated, span = one.measurement, one.emulated, one.range_mib
    names = [field.name for field in fields(Measurement) if field.name not in ("card", "not_stated", "note")]
    return {
        **{name: getattr(row, name) for name in names},
        "emulated_on": GPUS[row.card].title if emulated else None,
        "emulated_torch": torch.__version__ if emulated else None,
        "emulated_allocated_mib": emulated and emulated.peaks.allocated_bytes / MIB,
        "emulated_reserved_mib": emulated and emulated.peaks.reserved_bytes / MIB,
        "emulated_mib": one.emulated_mib,
        "emulated_low_mib": span and span[0],
        "emulated_high_mib": span and span[1],
        "error_pct": one.error_pct,
        "bar_pct": one.bar_pct,
        "verdict": one.verdict or None,
        "reason": one.reason or None,
        "note": row.note or None,
    }


def _formatted(row: dict[str, str | int | float | None]) -> dict[str, object]:
    """Return the row with computed values rounded: memory to 0.1 MiB, errors to 0.01 %."""
    forms = {name: ".1f" for name in row if name.startswith("emulated_") and name.endswith("mib")} | {
        "error_pct": ".2f"
    }
    rounded = {name: format(row[name], form) for name, form in forms.items() if row[name] is not None}
    return row | rounded


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All comparisons in a few numbers."""

    num_rows: int
    num_held: int
    """Number of rows with a bar."""

    num_within: int
    median_error_pct: float
    """Median size of the errors of rows with a bar."""

    num_bounds: int
    num_bounds_met: int
    num_bounds_undecided: int

    num_open: int
    """Number of rows whose source leaves something open."""


def summarize(comparisons: list[HeldMeasurement]) -> Summary:
    """Count the rows that are met."""
    held = [one for one in comparisons if one.bar_pct is not None]
    bounds = [one for one in comparisons if one.measurement.is_bound]
    return Summary(
        num_rows=len(comparisons),
        num_held=len(held),
        num_within=sum(one.is_met is True for one in held),
        median_error_pct=median(abs(one.error_pct) for one in held) if held else math.nan,
        num_bounds=len(bounds),
        num_bounds_met=sum(one.is_met is True for one in bounds),
        num_bounds_undecided=sum(one.is_met is None for one in bounds),
        num_open=sum(bool(one.measurement.not_stated) for one in comparisons),
    )
