"""Records of two folders, paired cell by cell, on the same machine if possible, else on another; no record is lost."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from bench.cells.identity import IDENTITY, MACHINE, identity_of

from .record import Record


@dataclass(frozen=True)
class Pair:
    """One cell in both folders, on one machine or two."""

    before: Record
    after: Record

    @property
    def no_longer_runs(self) -> bool:
        """Whether the cell ran in the first folder but not in the second."""
        return self.before.status == "ok" != self.after.status

    def both(self, column: str, unknown: str = "none") -> str:
        """Return a column of both records, as `H200`, or `A100 → H200` if they differ.

        Args:
            column: name of the column.
            unknown: word for a missing value.
        """
        values = [getattr(record, column) for record in (self.before, self.after)]
        return " → ".join(dict.fromkeys(unknown if value is None else str(value) for value in values))


@dataclass(frozen=True, kw_only=True)
class PairedRecords:
    """The records of two folders, each either in a pair or in one folder only."""

    pairs: list[Pair]
    only_before: list[Record]
    only_after: list[Record]

    def least_difference(self) -> list[str]:
        """Return the fields in which the two most similar unpaired cells differ; both folders must have one."""
        names = [name for name in IDENTITY if name not in MACHINE]
        sides = ({identity_of(record, without=MACHINE) for record in s} for s in (self.only_before, self.only_after))
        differences = ([n for n, a, b in zip(names, *both, strict=True) if a != b] for both in product(*sides))
        return min(differences, key=len)


_NEARNESS: tuple[Callable[[Record], tuple], ...] = (
    lambda record: (record.cell_id, identity_of(record)),
    identity_of,
    lambda record: (record.is_measured, identity_of(record, without=MACHINE)),
    lambda record: identity_of(record, without=MACHINE),
)
"""What two records must have in common, nearest first: name and identity, then identity, then all but the machine."""


def paired(before: list[Record], after: list[Record]) -> PairedRecords:
    """Pair each record with the nearest of the other folder; if several are equally near, with each of them.

    Records of one cell on two machines are a pair if neither folder has the other's machine. Any other difference, such
    as in seed, classes or weights, makes two cells.
    """
    pairs: list[Pair] = []
    before, after = sorted(before, key=_order), sorted(after, key=_order)
    for key in _NEARNESS:
        keyed = [[(key(record), record) for record in side] for side in (before, after)]
        common = set.intersection(*({name for name, _ in side} for side in keyed))
        pairs += [Pair(one, other) for (name, one), (its, other) in product(*keyed) if name == its]
        before, after = ([record for name, record in side if name not in common] for side in keyed)
    pairs.sort(key=lambda pair: _order(pair.after))
    return PairedRecords(pairs=pairs, only_before=before, only_after=after)


def _order(record: Record) -> tuple[str, ...]:
    return tuple(map(str, identity_of(record)))
