"""The paper check on the terminal."""

from itertools import groupby

from bench.paper.bands import Verdict
from bench.paper.check import Comparison, check_table, counts_by_kind
from bench.paper.inconsistencies import inconsistencies

from .page import check_summary
from .table_formats import Column, Printer, TableView, data_rows, number

STYLES = {"pass": "green", "warn": "yellow", "differs": "red"}
LEFT_BAND = "LEFT ITS BAND"


def print_check(comparisons: list[Comparison], printer: Printer) -> None:
    """Print each cell that has a number of ours, a line for cells without, contradictions of the paper, and the sum."""
    groups = groupby(comparisons, key=lambda one: one.printed_cell.table)
    printer.show(data_rows(check_table(comparisons)), *(_view(name, list(group)) for name, group in groups))
    contradictions = TableView(
        title="Inside the paper",
        columns=(
            Column(heading="Where", show=lambda one: one.where),
            Column(heading="It says", show=lambda one: one.says),
            Column(heading="But", show=lambda one: one.but),
        ),
        items=inconsistencies(),
    )
    printer.summarize(contradictions)
    printer.summarize(_kinds_view(comparisons))
    printer.note(check_summary(comparisons))


def _kinds_view(comparisons: list[Comparison]) -> TableView:
    verdicts: dict[str, Verdict] = {"Pass": "pass", "Near": "warn", "Differ": "differs"}
    return TableView(
        title="By kind of our number",
        columns=(
            Column(heading="Kind", show=lambda one: one[0]),
            *(
                Column(heading=heading, show=lambda one, verdict=verdict: str(one[1][verdict]), is_number=True)
                for heading, verdict in verdicts.items()
            ),
        ),
        items=list(counts_by_kind(comparisons).items()),
    )


def _view(name: str, comparisons: list[Comparison]) -> TableView:
    """Return the view of one of the paper's tables; reasons are listed below it, each once."""
    answered = [one for one in comparisons if one.verdict != "no record"]
    missing = [one.printed_cell.column for one in comparisons if one.verdict == "no record"]
    reasons = {reason: f"({index})" for index, reason in enumerate(_reasons(answered), start=1)}
    notes = [f"{mark} {reason}" for reason, mark in reasons.items()]
    if missing:
        notes.append(f"no record of ours: {len(missing)} cells ({', '.join(sorted(set(missing)))})")
    labelled = {id(next(group)) for _, group in groupby(answered, key=lambda one: one.printed_cell.row)}
    return TableView(
        title=name if name.startswith("Fig") else f"Table {name}",
        columns=(
            Column(heading="Row", show=lambda one: one.printed_cell.row if id(one) in labelled else ""),
            Column(heading="Column", show=lambda one: one.printed_cell.column),
            Column(heading="Printed", show=_printed, is_number=True),
            Column(heading="Ours", show=_ours, is_number=True),
            Column(heading="Diff.", show=_difference, is_number=True, is_extra=True),
            number("%", "relative", "+.1f", 0.01),
            number("Of full,\nprinted", "ratio_printed", ".3f", is_extra=True),
            number("Of full,\nours", "ratio_ours", ".3f", is_extra=True),
            number("True\ncount", "true_value", ",.2f", is_extra=True),
            Column(heading="Verdict", show=lambda one: one.verdict, styles=STYLES, is_number=True),
            Column(heading="Why", show=lambda one: reasons.get(one.reason, ""), is_number=True),
            Column(heading="", show=lambda one: LEFT_BAND if one.left_band else "", styles={LEFT_BAND: "bold red"}),
        ),
        items=answered,
        notes=notes,
    )


def _reasons(comparisons: list[Comparison]) -> list[str]:
    return list(dict.fromkeys(one.reason for one in comparisons if one.reason))


def _printed(one: Comparison) -> str:
    cell = one.printed_cell
    return "/" if cell.printed is None else f"{cell.printed:,.{cell.decimals}f}"


def _ours(one: Comparison) -> str:
    decimals = max(one.printed_cell.decimals, 2 if one.printed_cell.printed == 100 else 0)
    return "/" if one.ours.value is None else f"{one.ours.value:,.{decimals}f}"


def _difference(one: Comparison) -> str:
    return "" if one.difference is None else f"{one.difference:+,.{one.printed_cell.decimals}f}"
