"""`python -m bench compare A B`: what has changed from one results folder to another."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

from rich import box
from rich.table import Table
from tyro.conf import Positional

from bench.cells.identity import IDENTITY, MACHINE, identity_in_words, identity_of
from bench.cells.step_options import axes_in_words
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


@dataclass(frozen=True)
class Pair:
    """One cell in both folders, on one machine or on two."""

    before: Record
    after: Record

    @property
    def failed_since(self) -> bool:
        """Whether the cell has run in the first folder and has not in the second."""
        return self.before.status == "ok" != self.after.status

    def both(self, column: str, missing: str = "none") -> str:
        """A column of both records, as `H200`, or `A100 → H200` where they differ."""
        values = [getattr(record, column) for record in (self.before, self.after)]
        return " → ".join(dict.fromkeys(missing if value is None else str(value) for value in values))

    def deltas(self) -> Iterator["Delta"]:
        """All quantities that both records have."""
        for quantity in QUANTITIES:
            before, after = (getattr(record, quantity.name) for record in (self.before, self.after))
            if None not in (before, after):
                has_spread = quantity.name == "throughput_img_s"
                spread, overlap = _spread(self.before, self.after) if has_spread else (None, False)
                yield Delta(
                    pair=self,
                    quantity=quantity,
                    before=before,
                    after=after,
                    spread_pct=spread,
                    is_within_spread=overlap,
                )


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


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The records of two folders: each is in a pair, or in one folder only."""

    pairs: list[Pair]
    only_before: list[Record]
    only_after: list[Record]

    @property
    def deltas(self) -> list[Delta]:
        """Of all pairs."""
        return [delta for pair in self.pairs for delta in pair.deltas()]


_NEARNESS: tuple[Callable[[Record], tuple], ...] = (
    lambda record: (record.cell_id, identity_of(record)),
    identity_of,
    lambda record: (record.is_measured, identity_of(record, without=MACHINE)),
    lambda record: identity_of(record, without=MACHINE),
)
"""What two records have in common, nearest first: all with the name; all; all but the machine."""


def match(before: list[Record], after: list[Record]) -> Matched:
    """Pair each record with the nearest of the other folder, and with all of them where several are as near.

    Records of one cell on two machines are a pair where neither has one of the same machine. Any other difference, of
    seed, classes or weights for instance, makes two cells.
    """
    pairs, order = [], lambda record: tuple(map(str, identity_of(record)))
    before, after = sorted(before, key=order), sorted(after, key=order)
    for key in _NEARNESS:
        keyed = [[(key(record), record) for record in side] for side in (before, after)]
        names, others = ({name for name, _ in side} for side in keyed)
        pairs += [Pair(one, other) for (name, one), (its, other) in product(*keyed) if name == its]
        before, after = ([record for name, record in side if name not in names & others] for side in keyed)
    pairs.sort(key=lambda pair: order(pair.after))
    return Matched(pairs=pairs, only_before=before, only_after=after)


def _spread(old: Record, new: Record) -> tuple[float, bool]:
    """Spread of the noisier side in percent, and whether the deciles overlap."""
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
            axes_in_words(record),
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


def remarks(matched: Matched, names: tuple[str, str]) -> Iterator[str]:
    """What the table does not say: changed outcomes, changed software, pairs without a number, records without a pair.

    Args:
        matched: the records.
        names: of the folders.
    """
    for pair in matched.pairs:
        if pair.before.status != pair.after.status:
            yield f"{pair.both('status')}: {identity_in_words(pair.after)}: {_details(pair)}"
        elif not any(pair.deltas()):
            yield f"nothing measured or predicted in both: {identity_in_words(pair.after)}, {pair.both('device')}"
    for column, title in MADE_WITH.items():
        values = Counter(pair.both(column, "not known") for pair in matched.pairs)
        yield from (f"{title} {value} in {count} cells" for value, count in values.items() if "→" in value)
    for name, records in zip(names, (matched.only_before, matched.only_after), strict=True):
        for record in records:
            yield f"only in {name}: {identity_in_words(record)}, {_machine_in_words(record)}"


def _details(pair: Pair) -> str:
    return next(
        (r.status_detail for r in (pair.after, pair.before) if r.status != "ok" and r.status_detail), "no reason"
    )


def _machine_in_words(record: Record) -> str:
    return f"on {record.device}" if record.is_measured else f"predicted for {record.gpu}"


def main(config: CompareConfig) -> int:
    """The table of deltas."""
    if not config.threshold_pct >= 0:
        raise InvalidInput(f"threshold-pct must be at least 0, got {config.threshold_pct:g}.")
    names = config.before, config.after
    matched = match(*map(read_records, names))
    if not matched.pairs:
        raise InvalidInput(
            f"compare needs a cell that both folders have, {names[0]} and {names[1]} share none: their nearest cells "
            f"differ in {_least_difference(matched)}."
        )
    console, deltas = make_console(), matched.deltas
    console.print(comparison_table(deltas, config.threshold_pct, names))
    for remark in remarks(matched, names):
        console.print(remark, highlight=False, markup=False, soft_wrap=True)
    console.print(_counts(matched, names), highlight=False, markup=False, soft_wrap=True)
    return int(any(d.is_worse(config.threshold_pct) for d in deltas) or any(p.failed_since for p in matched.pairs))


def _counts(matched: Matched, names: tuple[str, str]) -> str:
    return (
        f"{len(matched.pairs)} pairs compared, {len(matched.only_before)} cells only in {names[0]}, "
        f"{len(matched.only_after)} only in {names[1]}"
    )


def _least_difference(matched: Matched) -> str:
    """The fields in which the most alike records without a pair differ."""
    cells = [name for name in IDENTITY if name not in MACHINE]
    sides = (
        [identity_of(record, without=MACHINE) for record in side] for side in (matched.only_before, matched.only_after)
    )
    differences = ([n for n, a, b in zip(cells, *pair, strict=True) if a != b] for pair in product(*sides))
    return ", ".join(min(differences, key=len))
