"""`python -m bench compare A B`: what has changed from one results folder to another."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from bench.cells.step_options import IDENTITY
from bench.records.record import Record
from bench.records.results_store import ResultsStore
from bench.report.table_formats import Column, FormatOption, Printer, TableView, Value, number, printing
from bench.report.terminal import named, setting_of
from bench.units import GIB, MIB
from fptplus import InvalidInput


@dataclass(frozen=True)
class Quantity:
    """A column that is compared."""

    name: str
    title: str
    more_is_better: bool = False


QUANTITIES = (
    Quantity("predicted_peak_reserved_bytes", "predicted reserved"),
    Quantity("measured_peak_allocated_bytes", "allocated"),
    Quantity("measured_peak_reserved_bytes", "reserved"),
    Quantity("measured_process_bytes", "process"),
    Quantity("throughput_img_s", "throughput", more_is_better=True),
    Quantity("energy_j_per_img", "energy net of idle"),
)


@dataclass(frozen=True, kw_only=True)
class Delta:
    """One quantity of one cell in both folders."""

    record: Record
    """Of the second folder."""

    quantity: Quantity
    before: float
    after: float
    spread_pct: float | None
    """Half the distance of the first to the last decile of step times, in percent of their median, of the noisier
    folder; None for quantities without one."""

    is_within_spread: bool
    """Whether the deciles of both folders overlap."""

    @property
    def delta_pct(self) -> float | None:
        """Signed, in percent of the first folder's; None where that is 0."""
        return None if self.before == 0 else 100 * (self.after / self.before - 1)

    def is_change(self, threshold_pct: float) -> bool:
        """Whether it is more than the threshold and more than the spread."""
        return self.delta_pct is not None and abs(self.delta_pct) > threshold_pct and not self.is_within_spread

    def is_worse(self, threshold_pct: float) -> bool:
        """Whether it is a change for the worse."""
        return self.is_change(threshold_pct) and (self.delta_pct < 0) == self.quantity.more_is_better


def read_records(folder: str) -> list[Record]:
    """The records of a results folder.

    Raises:
        InvalidInput: if there are none.
    """
    path = Path(folder)
    records = ResultsStore(path).records() if (path / "records").is_dir() else []
    if not records:
        raise InvalidInput(f"compare needs folders with records/ of an earlier run, {folder!r} has none; name another.")
    return records


def compare(before: list[Record], after: list[Record]) -> tuple[list[Delta], int, int]:
    """All quantities that both sides have, cell by cell.

    Returns:
        Deltas, and how many cells only the first and only the second side has.
    """
    first, second = ({_identity(record): record for record in records} for records in (before, after))
    deltas = []
    for identity in first.keys() & second.keys():
        old, new = first[identity], second[identity]
        for quantity in QUANTITIES:
            pair = getattr(old, quantity.name), getattr(new, quantity.name)
            if None not in pair:
                spread, overlap = (None, False) if quantity.name != "throughput_img_s" else _spread(old, new)
                deltas.append(
                    Delta(
                        record=new,
                        quantity=quantity,
                        before=pair[0],
                        after=pair[1],
                        spread_pct=spread,
                        is_within_spread=overlap,
                    )
                )
    order = [quantity.name for quantity in QUANTITIES]
    deltas.sort(key=lambda d: (*(str(part) for part in _identity(d.record)), order.index(d.quantity.name)))
    return deltas, len(first.keys() - second.keys()), len(second.keys() - first.keys())


def _identity(record: Record) -> tuple:
    return tuple(getattr(record, name) for name in IDENTITY)


def _spread(old: Record, new: Record) -> tuple[float, bool]:
    """Spread of the noisier side in percent, and whether the deciles overlap."""
    widths = [50 * (r.step_time_p90_s - r.step_time_p10_s) / r.step_time_s for r in (old, new)]
    overlap = old.step_time_p10_s <= new.step_time_p90_s and new.step_time_p10_s <= old.step_time_p90_s
    return max(widths), overlap


def print_comparison(deltas: list[Delta], threshold_pct: float, printer: Printer) -> None:
    """One table for each model, resolution and choice of axes; a row for each quantity of each cell, changes marked.

    Args:
        deltas: of both folders.
        threshold_pct: above which a delta is a change.
        printer: of the tables.
    """
    groups: dict[str, list[Delta]] = {}
    for delta in deltas:
        groups.setdefault(_setting(delta.record), []).append(delta)
    views = (_view(setting, group, threshold_pct) for setting, group in groups.items())
    printer.show((_row(delta, threshold_pct) for delta in deltas), *views)


def _setting(record: Record) -> str:
    """What the cells of one table share, so that no two rows of a table look alike."""
    memory = "" if record.vram_bytes is None else f", {record.vram_bytes / GIB:.4g} GiB of memory"
    return f"{setting_of(record)}, {record.num_classes} classes{memory}"


def _view(setting: str, deltas: list[Delta], threshold_pct: float) -> TableView:
    return TableView(
        title=setting,
        columns=(
            Column(heading="Method", show=lambda delta: named(delta.record)),
            Column(heading="Quantity", show=lambda delta: delta.quantity.title),
            Column(heading="Before", show=lambda delta: _amount(delta, delta.before), is_number=True),
            Column(heading="After", show=lambda delta: _amount(delta, delta.after), is_number=True),
            number("Delta\n%", "delta_pct", "+.2f"),
            number("Spread\n± %", "spread_pct", ".1f"),
            Column(heading="", show=lambda delta: _verdict(delta, threshold_pct), styles=_STYLES),
        ),
        items=deltas,
    )


def _amount(delta: Delta, amount: float) -> str:
    is_bytes = delta.quantity.name.endswith("_bytes")
    return f"{amount / MIB:,.1f} MiB" if is_bytes else f"{amount:,.3f}"


def _row(delta: Delta, threshold_pct: float) -> dict[str, Value]:
    """The cell, the quantity by the name of its column, and what has become of it."""
    return {name: getattr(delta.record, name) for name in IDENTITY} | {
        "quantity": delta.quantity.name,
        "before": delta.before,
        "after": delta.after,
        "delta_pct": delta.delta_pct,
        "spread_pct": delta.spread_pct,
        "verdict": _verdict(delta, threshold_pct) or None,
    }


_STYLES = {"worse": "red", "better": "green"}


def _verdict(delta: Delta, threshold_pct: float) -> str:
    if delta.is_worse(threshold_pct):
        return "worse"
    if delta.is_change(threshold_pct):
        return "better"
    return "within the spread" if delta.is_within_spread and abs(delta.delta_pct or 0) > threshold_pct else ""


@dataclass(frozen=True, kw_only=True)
class CompareConfig(FormatOption):
    """Show what changed from one results folder to another, cell by cell: memory, throughput and energy.

    A difference counts as a change if it exceeds the threshold and, for throughput, if the step times of the two
    folders do not overlap between their first and last deciles. The exit status is 1 if anything became worse.
    """

    before: Annotated[str, Positional]
    """Results folder of the earlier run."""

    after: Annotated[str, Positional]
    """Results folder of the later run."""

    threshold_pct: float = 5.0
    """Smallest difference that counts as a change, in percent."""


def main(config: CompareConfig) -> int:
    """The table of deltas."""
    if not config.threshold_pct >= 0:
        raise InvalidInput(f"threshold-pct must be at least 0, got {config.threshold_pct:g}.")
    sides = read_records(config.before), read_records(config.after)
    deltas, only_before, only_after = compare(*sides)
    if not deltas:
        raise InvalidInput(
            f"compare needs a cell that both folders have, {config.before} and {config.after} share none."
        )
    with printing(config.format) as printer:
        printer.note(f"{config.before} → {config.after}", "bold")
        printer.note(f"A change is more than {config.threshold_pct:g} % and more than the spread.")
        print_comparison(deltas, config.threshold_pct, printer)
        if only_before or only_after:
            printer.note(f"{only_before} cells only in {config.before}, {only_after} only in {config.after}")
    return int(any(delta.is_worse(config.threshold_pct) for delta in deltas))
