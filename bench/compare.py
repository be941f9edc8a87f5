"""Two results folders side by side: what has changed, by how much, and whether that is more than the spread."""

from dataclasses import dataclass
from pathlib import Path

from fptplus import InvalidInput

from .record import Record
from .results_store import ResultsStore
from .step_options import IDENTITY


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
