"""`python -m bench compare A B`: what has changed from one results folder to another."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from bench.compare import compare as compare_records
from bench.compare import read_records
from bench.report.comparison import comparison_table
from bench.report.terminal import make_console
from fptplus import InvalidInput


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Deltas between two results folders, cell by cell: memory, throughput, energy.

    A change is more than the threshold and, for throughput, more than the deciles of both folders' step times overlap.
    The exit status is 1 if something became worse.
    """

    before: Annotated[str, Positional]
    """Results folder to compare with."""

    after: Annotated[str, Positional]
    """Results folder that is compared."""

    threshold_pct: float = 5.0
    """Percent above which a delta is a change."""


def main(config: CompareConfig) -> int:
    """The table of deltas."""
    if not config.threshold_pct >= 0:
        raise InvalidInput(f"threshold-pct must be at least 0, got {config.threshold_pct:g}.")
    sides = read_records(config.before), read_records(config.after)
    deltas, only_before, only_after = compare_records(*sides)
    if not deltas:
        raise InvalidInput(
            f"compare needs a cell that both folders have, {config.before} and {config.after} share none."
        )
    console = make_console()
    console.print(comparison_table(deltas, config.threshold_pct, (config.before, config.after)))
    if only_before or only_after:
        console.print(
            f"{only_before} cells only in {config.before}, {only_after} only in {config.after}", highlight=False
        )
    return int(any(delta.is_worse(config.threshold_pct) for delta in deltas))
