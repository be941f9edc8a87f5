"""Compare each printed cell with ours: differences, both ratios to full fine-tuning, a verdict, and its reason."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd

from bench.cells.config import CellConfig
from fptplus.training.efficiency import performance_efficiency

from .bands import FITS_AFTER_ALL, FITS_AFTER_ALL_CELLS, PAPER_SOFTWARE, TOLERANCES, Verdict, known_deviation
from .evidence import PAPER_CARD, PAPER_STACK, Evidence, Number
from .flops import by_convention_gmacs, preloading_by_convention_gmacs, preloading_gmacs, true_gmacs
from .printed import DATASETS, FULL_MEM_MB, PrintedCell, printed_cells
from .settings import paper_cell
from .table2_time import PRELOADING


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One printed cell next to ours."""

    printed_cell: PrintedCell
    ours: Number | None
    """Our number; None without a record. A value of None means out of memory."""

    verdict: Verdict
    ratio_printed: float | None
    """The printed number divided by that of full fine-tuning."""

    ratio_ours: float | None
    left_band: bool = False
    """Whether the cell makes the check fail."""

    reason: str = ""
    true_value: float | None = None
    """For FLOPs, our number with every product counted."""

    @property
    def difference(self) -> float | None:
        """Return ours less printed."""
        printed = self.printed_cell.printed
        return None if self.ours is None or None in (self.ours.value, printed) else self.ours.value - printed

    @property
    def relative(self) -> float | None:
        """Return the difference divided by the printed number."""
        return None if self.difference is None else self.difference / self.printed_cell.printed


def check(evidence: Evidence) -> list[Comparison]:
    """Compare every printed cell, in the paper's order.

    Raises:
        InvalidInput: if the records of the paper's cells are missing.
    """
    return [_compare(cell, evidence) for cell in printed_cells()]


def check_table(comparisons: list[Comparison]) -> pd.DataFrame:
    """Return the comparisons as a table, one row per printed cell; a missing number is empty, never 0."""
    return pd.DataFrame(
        [
            {
                "table": one.printed_cell.table,
                "row": one.printed_cell.row,
                "column": one.printed_cell.column,
                "printed": "/" if one.printed_cell.printed is None else one.printed_cell.printed,
                "ours": _shown(one.ours),
                "difference": one.difference,
                "relative_pct": None if one.relative is None else 100 * one.relative,
                "ratio_to_full_printed": one.ratio_printed,
                "ratio_to_full_ours": one.ratio_ours,
                "true_value": one.true_value,
                "verdict": one.verdict,
                "left_band": one.left_band,
                "reason": one.reason,
                "source": one.ours.source if one.ours else "",
                "record": one.ours.record if one.ours else "",
            }
            for one in comparisons
        ]
    )


KINDS = {
    "measured": "measured",
    "emulated": "emulated",
    "counted": "counted",
    "predicted": "predicted",
    "trained": "trained",
    "computed": "arithmetic",
}
"""Kinds of our numbers by their source; arithmetic is worked out from numbers that the paper prints."""


def counts_by_kind(comparisons: list[Comparison]) -> dict[str, Counter[Verdict]]:
    """Return the number of verdicts of each kind of our numbers; numbers of different kinds prove different things."""
    found = {kind: Counter() for kind in KINDS.values()}
    for one in comparisons:
        if one.ours is not None:
            found[KINDS[one.ours.source]][one.verdict] += 1
    return {kind: counts for kind, counts in found.items() if counts}


def _shown(ours: Number | None) -> float | str | None:
    if ours is None:
        return None
    return "/" if ours.value is None else ours.value


def _compare(cell: PrintedCell, evidence: Evidence) -> Comparison:
    ours = _ours(cell, evidence)
    full = _ours_of_full(cell, evidence)
    compared = partial(
        Comparison,
        printed_cell=cell,
        ours=ours,
        ratio_printed=_ratio(cell.printed, cell.full_printed),
        ratio_ours=_ratio(ours.value, full.value) if ours and full and ours.card == full.card else None,
        true_value=_true_gmacs(cell, evidence) if cell.quantity == "gmacs" else None,
    )
    if ours is None:
        return compared(verdict="no record")
    if ours.source == "measured" and ours.card != PAPER_CARD:
        device = evidence.record(cell.cell).device
        return compared(verdict="no record", reason=f"measured on {device}, which is not the paper's card")
    if ours.value is None or cell.printed is None:
        return _compare_capacity(cell, ours, compared)
    return _compare_numbers(cell, ours, compared)


def _compare_capacity(cell: PrintedCell, ours: Number, compared: Callable[..., Comparison]) -> Comparison:
    """Compare a cell of which one of the two numbers is out of memory."""
    is_known = FITS_AFTER_ALL_CELLS.search(cell.row) is not None and cell.quantity == "memory_mib"
    if ours.value is None and cell.printed is None:
        return compared(verdict="pass", left_band=is_known)
    return compared(verdict="differs", left_band=not is_known, reason=FITS_AFTER_ALL if is_known else "")


def _compare_numbers(cell: PrintedCell, number: Number, compared: Callable[..., Comparison]) -> Comparison:
    tolerance = PAPER_SOFTWARE if number.record == PAPER_STACK else TOLERANCES[cell.quantity]
    ours, known = number.value, known_deviation(cell)
    off = abs(ours / cell.printed - 1)
    rounds_to_it = abs(ours - cell.printed) <= 0.5 * 10**-cell.decimals * (1 + 1e-9)
    verdict: Verdict = "differs"
    if rounds_to_it or off <= tolerance.passes:
        verdict = "pass"
    elif off <= tolerance.warns:
        verdict = "warn"
    low, high = (known.low, known.high) if known else (1 - tolerance.warns, 1 + tolerance.warns)
    left_band = not (low <= ours / cell.printed <= high or (rounds_to_it and not known))
    reason = known.reason if known and verdict != "pass" else ""
    return compared(verdict=verdict, left_band=left_band, reason=reason)


def _true_gmacs(cell: PrintedCell, evidence: Evidence) -> float:
    return (true_gmacs(evidence, cell.cell.method) if cell.cell else preloading_gmacs(evidence)).value


def _ratio(value: float | None, full: float | None) -> float | None:
    return None if value is None or not full else value / full


def _ours_of_full(cell: PrintedCell, evidence: Evidence) -> Number | None:
    """Return our number of full fine-tuning for the same column, model and resolution."""
    if cell.quantity in ("ppe", "pme", "auc", "avg_auc"):
        return Number(value=cell.full_printed, source="printed")
    if cell.quantity in _TABLE2:
        return evidence.table2("full", _TABLE2[cell.quantity])
    model, res = (cell.cell.model, cell.cell.res) if cell.cell else ("vit_b", 512)
    return _by_record(cell, paper_cell("full", model, res), evidence)


def _ours(cell: PrintedCell, evidence: Evidence) -> Number | None:
    """Return our number for a printed one, or None if no record has it."""
    row = cell.of_row
    match cell.quantity:
        case "auc":
            return evidence.auc(cell.cell.method, cell.dataset, cell.weights)
        case "avg_auc" if cell.table == "I":
            aucs = [row[f"{short}_auc"] for short in DATASETS]
            return Number(value=sum(aucs) / len(aucs), source="computed", record="bench/paper/table1.csv")
        case "ppe":
            return Number(value=performance_efficiency(row["avg_auc"], row["params_pct"] / 100), source="computed")
        case "pme":
            return Number(value=performance_efficiency(row["avg_auc"], row["mem_mb"] / FULL_MEM_MB), source="computed")
        case "avg_auc":
            return None
    if cell.quantity in _TABLE2:
        return evidence.table2(cell.cell.method if cell.cell else PRELOADING, _TABLE2[cell.quantity])
    if cell.cell is None:
        return preloading_by_convention_gmacs(evidence)
    return _by_record(cell, cell.cell, evidence)


_TABLE2 = {
    "seconds": "train_time_s",
    "img_s": "throughput_img_s",
    "peak_w": "peak_power_w",
    "mean_w": "mean_power_w",
}
"""Columns of ours for the quantities of Table II."""


def _by_record(cell: PrintedCell, config: CellConfig, evidence: Evidence) -> Number | None:
    match cell.quantity:
        case "params_pct":
            return evidence.params_pct(config)
        case "memory_mib":
            return evidence.paper_memory_mib(config)
        case "gmacs":
            return by_convention_gmacs(evidence, config.method)
    return None
