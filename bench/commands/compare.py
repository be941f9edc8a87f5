"""`python -m bench compare A B`: what has changed from one results folder to another."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich import box
from rich.table import Table
from tyro.conf import Positional

from bench.cells.identity import choices_in_words, identity_in_words
from bench.records.pairing import Pair, PairedRecords, paired
from bench.records.record import Record
from bench.records.results_store import ResultsStore
from bench.report.terminal import make_console
from bench.units import MIB
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

MADE_WITH = {"torch_version": "PyTorch", "cuda_version": "CUDA", "driver_version": "driver"}
"""Columns that do not identify a cell and may explain a difference."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """One quantity of one cell in both folders."""

    pair: Pair
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


def deltas(pair: Pair) -> Iterator[Delta]:
    """All quantities that both records of a pair have."""
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
    """Spread of the noisier side in percent, and whether the deciles overlap."""
    old, new = pair.before, pair.after
    widths = [50 * (r.step_time_p90_s - r.step_time_p10_s) / r.step_time_s for r in (old, new)]
    overlap = old.step_time_p10_s <= new.step_time_p90_s and new.step_time_p10_s <= old.step_time_p90_s
    return max(widths), overlap


def comparison_table(deltas: list[Delta], threshold_pct: float, names: tuple[str, str]) -> Table:
    """A row for each quantity of each cell, changes marked.

    Args:
        deltas: of both folders; those that were predicted name the card, those measured the device.
        threshold_pct: above which a delta is a change.
        names: of the folders.
    """
    table = Table(
        title=f"{names[0]} → {names[1]}; a change is more than {threshold_pct:g} % and more than the spread",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for heading in ("Method", "Model", "Axes", "On", "Quantity"):
        table.add_column(heading, no_wrap=heading != "On")
    for heading in ("Pixels", "Batch", "Before", "After", "Delta %", "Spread ± %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for delta in deltas:
        record, is_bytes = delta.pair.after, delta.quantity.name.endswith("_bytes")
        numbers = [f"{n / MIB:,.1f} MiB" if is_bytes else f"{n:,.3f}" for n in (delta.before, delta.after)]
        table.add_row(
            record.method,
            record.model,
            choices_in_words(record),
            delta.pair.both("gpu" if delta.quantity.name.startswith("predicted") else "device"),
            delta.quantity.title,
            str(record.res),
            str(record.batch_size),
            *numbers,
            "" if delta.delta_pct is None else f"{delta.delta_pct:+.2f}",
            "" if delta.spread_pct is None else f"{delta.spread_pct:.1f}",
            _verdict(delta, threshold_pct),
        )
    return table


def _verdict(delta: Delta, threshold_pct: float) -> str:
    if delta.is_worse(threshold_pct):
        return "[red]worse[/]"
    if delta.is_change(threshold_pct):
        return "[green]better[/]"
    return "within the spread" if delta.is_within_spread and abs(delta.delta_pct or 0) > threshold_pct else ""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Deltas between two results folders, cell by cell: memory, throughput, energy.

    A cell is compared with the same cell on the same machine or, where the other folder has none, on its machine, which
    the table names. A change is more than the threshold and, for throughput, more than the deciles of both folders'
    step times overlap. The exit status is 1 if something became worse, or no longer runs.
    """

    before: Annotated[str, Positional]
    """Results folder to compare with."""

    after: Annotated[str, Positional]
    """Results folder that is compared."""

    threshold_pct: float = 5.0
    """Percent above which a delta is a change."""


def remarks(found: PairedRecords, names: tuple[str, str]) -> Iterator[str]:
    """What the table does not say: changed outcomes, changed software, pairs without a number, records without a pair.

    Args:
        found: the records.
        names: of the folders.
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
    """The table of deltas. Returns 1 if something became worse, or no longer runs."""
    if not config.threshold_pct >= 0:
        raise InvalidInput(f"threshold-pct must be at least 0, got {config.threshold_pct:g}.")
    names = config.before, config.after
    found = paired(*map(read_records, names))
    if not found.pairs:
        raise InvalidInput(
            f"compare needs a cell that both folders have, {names[0]} and {names[1]} share none: their nearest cells "
            f"differ in {', '.join(found.least_difference())}."
        )
    console, all_deltas = make_console(), [delta for pair in found.pairs for delta in deltas(pair)]
    console.print(comparison_table(all_deltas, config.threshold_pct, names))
    for remark in remarks(found, names):
        console.print(remark, highlight=False, markup=False, soft_wrap=True)
    is_worse = any(delta.is_worse(config.threshold_pct) for delta in all_deltas)
    return int(is_worse or any(pair.no_longer_runs for pair in found.pairs))
