"""`python -m bench compare A B`: what changed from one results folder to another."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from bench.cells.identity import IDENTITY, choices_in_words, identity_in_words
from bench.records.pairing import Pair, PairedRecords, paired
from bench.records.record import Record
from bench.records.results_store import ResultsStore
from bench.report.table_formats import Column, FormatOption, Printer, TableView, Value, number, printing
from bench.report.terminal import named
from bench.units import MIB
from fptplus import InvalidInput


@dataclass(frozen=True)
class Quantity:
    """A column to compare."""

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

MADE_WITH = {"torch_version": "PyTorch", "cuda_version": "CUDA", "driver_version": "driver"}
"""Columns that do not identify a cell but may explain a difference."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """One quantity of one cell in both folders."""

    pair: Pair
    quantity: Quantity
    before: float
    after: float
    spread_pct: float | None
    """Half the distance from the first to the last decile of step times, in percent of their median, for the noisier
    folder; None for quantities without a spread."""

    is_within_spread: bool
    """Whether the deciles of the two folders overlap."""

    @property
    def delta_pct(self) -> float | None:
        """Signed change in percent of the first folder's value; None if that is 0."""
        return None if self.before == 0 else 100 * (self.after / self.before - 1)

    def is_change(self, threshold_pct: float) -> bool:
        """Whether the change exceeds both the threshold and the spread."""
        return self.delta_pct is not None and abs(self.delta_pct) > threshold_pct and not self.is_within_spread

    def is_worse(self, threshold_pct: float) -> bool:
        """Whether the quantity became worse."""
        return self.is_change(threshold_pct) and (self.delta_pct < 0) == self.quantity.more_is_better


def read_records(folder: str) -> list[Record]:
    """Return the records of a results folder.

    Raises:
        InvalidInput: if there are none.
    """
    path = Path(folder)
    records = ResultsStore(path, read_only=True).records() if (path / "records").is_dir() else []
    if not records:
        raise InvalidInput(f"compare needs folders with records/ of an earlier run, {folder!r} has none; name another.")
    return records


def deltas(pair: Pair) -> Iterator[Delta]:
    """Yield a delta for each quantity that both records of a pair have."""
    for quantity in QUANTITIES:
        before, after = (getattr(record, quantity.name) for record in (pair.before, pair.after))
        if None not in (before, after):
            spread, overlap = _spread(pair) if quantity.name == "throughput_img_s" else (None, False)
            yield Delta(
                pair=pair,
                quantity=quantity,
                before=before,
                after=after,
                spread_pct=spread,
                is_within_spread=overlap,
            )


def _spread(pair: Pair) -> tuple[float, bool]:
    """Return the spread of the noisier side in percent, and whether the deciles overlap."""
    old, new = pair.before, pair.after
    widths = [100 * record.step_time_spread for record in (old, new)]
    overlap = old.step_time_p10_s <= new.step_time_p90_s and new.step_time_p10_s <= old.step_time_p90_s
    return max(widths), overlap


def print_comparison(deltas: list[Delta], threshold_pct: float, printer: Printer) -> None:
    """Print a table for each model, resolution and choice of axes: a row per quantity of each cell, changes marked.

    Args:
        deltas: differences between the two folders.
        threshold_pct: largest delta that is not yet a change.
        printer: prints the tables.
    """
    groups: dict[str, list[Delta]] = {}
    for delta in deltas:
        groups.setdefault(_setting(delta), []).append(delta)
    views = (_view(setting, group, threshold_pct) for setting, group in groups.items())
    printer.show((_row(delta, threshold_pct) for delta in deltas), *views)


def _setting(delta: Delta) -> str:
    """Return what the rows of one table share, so that no two tables look alike: everything that identifies a cell
    except its method.
    """
    record = delta.pair.after
    machine = delta.pair.both("gpu" if delta.quantity.name.startswith("predicted") else "device")
    choices = choices_in_words(record)
    size = f"{record.model}, {record.res} px, batch {record.batch_size}"
    return ", ".join(filter(None, (size, choices, f"on {machine}")))


def _view(setting: str, deltas: list[Delta], threshold_pct: float) -> TableView:
    return TableView(
        title=setting,
        columns=(
            Column(heading="Method", show=lambda delta: named(delta.pair.after)),
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
    """Return the cell, the column name of the quantity, and how it changed."""
    return {name: getattr(delta.pair.after, name) for name in IDENTITY} | {
        "before_device": delta.pair.before.device,
        "before_gpu": delta.pair.before.gpu,
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

    A cell is compared with the same cell on the same machine or, where the other folder has none, on its machine, which
    the table names. A difference counts as a change if it exceeds the threshold and, for throughput, if the step times
    of the two folders do not overlap between their first and last deciles. The exit status is 1 if anything became
    worse, or no longer runs.
    """

    before: Annotated[str, Positional]
    """Results folder of the earlier run."""

    after: Annotated[str, Positional]
    """Results folder of the later run."""

    threshold_pct: float = 5.0
    """Smallest difference that counts as a change, in percent."""


def remarks(found: PairedRecords, names: tuple[str, str]) -> Iterator[str]:
    """Yield what the table omits: changed outcomes, changed software, pairs without a number, records without a pair.

    Args:
        found: the paired records.
        names: names of the two folders.
    """
    for pair in found.pairs:
        cell = identity_in_words(pair.after)
        if pair.before.status != pair.after.status:
            yield f"{pair.both('status')}: {cell}: {pair.after.status_detail or pair.before.status_detail}"
        elif not any(deltas(pair)):
            yield f"nothing measured or predicted in both: {cell}, {pair.both('device')}"
    for column, title in MADE_WITH.items():
        values = Counter(pair.both(column, "not known") for pair in found.pairs)
        yield from (f"{title} {value} in {count} pairs" for value, count in values.items() if "→" in value)
    for name, records in zip(names, (found.only_before, found.only_after), strict=True):
        yield from (f"only in {name}: {identity_in_words(record)}, {_machine_in_words(record)}" for record in records)
    yield (
        f"{len(found.pairs)} pairs compared, {len(found.only_before)} cells only in {names[0]}, "
        f"{len(found.only_after)} only in {names[1]}"
    )


def _machine_in_words(record: Record) -> str:
    return f"on {record.device}" if record.is_measured else f"predicted for {record.gpu}"


def main(config: CompareConfig) -> int:
    """Print the table of deltas. Return 1 if something became worse or no longer runs."""
    if not config.threshold_pct >= 0:
        raise InvalidInput(f"threshold-pct must be at least 0, got {config.threshold_pct:g}.")
    names = config.before, config.after
    found = paired(*map(read_records, names))
    if not found.pairs:
        raise InvalidInput(
            f"compare needs a cell that both folders have, {names[0]} and {names[1]} share none: their nearest cells "
            f"differ in {', '.join(found.least_difference())}."
        )
    all_deltas = [delta for pair in found.pairs for delta in deltas(pair)]
    with printing(config.format) as printer:
        printer.note(f"{names[0]} → {names[1]}", "bold")
        printer.note(f"A change is more than {config.threshold_pct:g} % and more than the spread.")
        print_comparison(all_deltas, config.threshold_pct, printer)
        for remark in remarks(found, names):
            printer.note(remark)
    is_worse = any(delta.is_worse(config.threshold_pct) for delta in all_deltas)
    return int(is_worse or any(pair.no_longer_runs for pair in found.pairs))
