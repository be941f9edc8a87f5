"""The paper check on the terminal."""

from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from bench.paper.check import Comparison
from bench.paper.inconsistencies import inconsistencies

from .page import check_summary

STYLE = {"pass": "green", "warn": "yellow", "differs": "red", "no record": "dim"}


def print_check(comparisons: list[Comparison], console: Console) -> None:
    """Each printed cell with a number of ours, a line for those without, what contradicts itself, and the sum."""
    for name, group in groupby(comparisons, key=lambda one: one.printed_cell.table):
        console.print(_table(name, list(group)))
    contradictions = Table(
        "Where", "It says", "But", title="Inside the paper", box=box.SIMPLE_HEAD, title_justify="left"
    )
    for one in inconsistencies():
        contradictions.add_row(one.where, one.says, one.but)
    console.print(contradictions)
    console.print(check_summary(comparisons), highlight=False)


def _table(name: str, comparisons: list[Comparison]) -> Table:
    answered = [one for one in comparisons if one.verdict != "no record"]
    missing = sorted({one.printed_cell.column for one in comparisons if one.verdict == "no record"})
    number = sum(one.verdict == "no record" for one in comparisons)
    title = name if name.startswith("Fig") else f"Table {name}"
    table = _plain(title)
    if number:
        table.caption = f"no record of ours: {number} cells ({', '.join(missing)})"
        table.caption_justify = "left"
    for heading in ("Row", "Column"):
        table.add_column(heading, no_wrap=True)
    for heading in ("Printed", "Ours", "Diff.", "%", "Of full, printed", "ours", "True count"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("Verdict", no_wrap=True)
    table.add_column("Reason")
    for one in answered:
        table.add_row(*_cells(one))
    return table


def _cells(one: Comparison) -> tuple[str, ...]:
    cell, decimals = one.printed_cell, one.printed_cell.decimals
    printed = "/" if cell.printed is None else f"{cell.printed:,.{decimals}f}"
    ours = "/" if one.ours.value is None else f"{one.ours.value:,.{max(decimals, 2 if cell.printed == 100 else 0)}f}"
    return (
        cell.row,
        cell.column,
        printed,
        ours,
        _text(one.difference, f"+,.{decimals}f"),
        _text(None if one.relative is None else 100 * one.relative, "+.1f"),
        _text(one.ratio_printed, ".3f"),
        _text(one.ratio_ours, ".3f"),
        _text(one.true_value, ",.2f"),
        f"[{STYLE[one.verdict]}]{one.verdict}[/]" + (" [bold red]LEFT ITS BAND[/]" if one.left_band else ""),
        one.reason,
    )


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _plain(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
