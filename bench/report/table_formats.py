"""A command's results in four forms: tables for people; CSV, JSON and Markdown for programs.

Results are rows, whose keys name their units, and views of them: titled tables of the columns that people need.
Programs get every column of every row and nothing else on standard output. People get views that fit their terminal,
or 80 characters in a pipe: all columns if there is room, otherwise the essential ones. No number is cut or wrapped.
"""

import csv
import io
import json
import math
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from methods.cli.plain_console import plain_console

TableFormat = Literal["table", "csv", "json", "md"]
Value = str | int | float | bool | None
DataRow = Mapping[str, Value]
"""One line of results: every column, in order; None if a value is not known."""

_GAP = 2
_WIDEST_TEXT = 24
"""Characters of a text column before it wraps to make room for other columns."""


@dataclass(frozen=True, kw_only=True)
class FormatOption:
    """The format option of every command that prints results."""

    format: TableFormat = "table"
    """Form of the results. table: for people. csv, json, md: all columns for programs; notes go to standard error."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a view."""

    heading: str
    """Heading, which may have several lines."""

    show: Callable[[Any], str]
    """Returns the text of an item's cell; empty if the value is not known."""

    is_number: bool = False
    """Whether the column shows numbers, which are aligned to the right and never wrap."""

    is_extra: bool = False
    """Whether the column is shown only if all columns fit."""

    styles: Mapping[str, str] = field(default_factory=dict)
    """Rich styles of cells, by their text."""


def number(heading: str, name: str, form: str = ",.0f", unit: float = 1, *, is_extra: bool = False) -> Column:
    """Return a column that shows an attribute of each item.

    Args:
        heading: heading of the column.
        name: name of the attribute.
        form: format of the number.
        unit: divisor of the number, such as MIB.
        is_extra: whether it is shown only if there is room.
    """

    def show(item: object) -> str:
        value = getattr(item, name)
        return "" if not is_known(value) else format(value / unit, form)

    return Column(heading=heading, show=show, is_number=True, is_extra=is_extra)


@dataclass(frozen=True, kw_only=True)
class TableView:
    """One table for people."""

    title: str = ""
    columns: Sequence[Column]
    items: Sequence[Any]
    """Items that the columns show, one per row."""

    notes: Sequence[str] = ()
    """Sentences below the table."""


@dataclass(frozen=True, kw_only=True)
class Printer:
    """Prints views at once, or keeps rows until all are available."""

    form: TableFormat = "table"
    console: Console = field(default_factory=lambda: plain_console(highlight=False))
    """Standard output."""

    aside: Console = field(default_factory=lambda: plain_console(stderr=True, highlight=False))
    """Where notes go when programs read standard output."""

    rows: list[DataRow] = field(default_factory=list)

    @property
    def for_people(self) -> Console:
        """Return the console for tables and notes."""
        return self.console if self.form == "table" else self.aside

    def show(self, rows: Iterable[DataRow], *views: TableView) -> None:
        """Print results: the views for people, or the rows for programs."""
        if self.form == "table":
            self.summarize(*views)
        self.rows.extend(rows)

    def summarize(self, *views: TableView) -> None:
        """Print tables that only people need."""
        for view in views:
            for line in (view.title,) if view.title else ():
                self.note(line, "bold")
            self.for_people.print(rich_table(view, self.for_people.width), crop=False)
            for note in view.notes:
                self.note(note, indent="  ")
            self.for_people.print()

    def note(self, sentence: str, style: str = "", indent: str = "") -> None:
        """Print a sentence, broken only between words, with its further lines indented."""
        self.for_people.print(Text(filled(sentence, self.for_people.width, indent), style=style), soft_wrap=True)


@contextmanager
def printing(form: TableFormat) -> Iterator[Printer]:
    """Yield a printer; rows for programs are written when all of them are available."""
    printer = Printer(form=form)
    yield printer
    if form != "table":
        sys.stdout.write(WRITERS[form](printer.rows))


def filled(text: str, width: int, indent: str = "") -> str:
    """Return a text in lines of a given width; longer words, such as paths, stay whole."""
    wrapped = textwrap.TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(wrapped.fill, text.splitlines()))


def rich_table(view: TableView, width: int) -> Table:
    """Return a view with the columns that fit a width."""
    columns = _columns_that_fit(view, width)
    height = max(column.heading.count("\n") for column in columns)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column, column_width in zip(columns, _widths(columns, view, width), strict=True):
        heading = Text("\n" * (height - column.heading.count("\n")) + column.heading)
        side = "right" if column.is_number else "left"
        table.add_column(heading, justify=side, overflow="fold", min_width=column_width, max_width=column_width)
    for item in view.items:
        cells = [(column, column.show(item)) for column in columns]
        table.add_row(*(Text(text, style=column.styles.get(text, "")) for column, text in cells))
    return table


def _widths(columns: Sequence[Column], view: TableView, width: int) -> list[int]:
    """Return the width of each column: numbers in full; the rest for text, in whole words if there is room."""
    wanted = [_longest(column, view) for column in columns]
    room = width - _GAP * (len(columns) - 1)
    given = [w if column.is_number else _longest_word(column, view) for column, w in zip(columns, wanted, strict=True)]
    if sum(given) > room:
        given = [w if column.is_number else min(w, 1) for column, w in zip(columns, wanted, strict=True)]
    for _ in range(room - sum(given)):
        if not (open_columns := [index for index, w in enumerate(wanted) if given[index] < w]):
            break
        given[min(open_columns, key=given.__getitem__)] += 1  # the narrowest of the columns that need more
    return given


def _columns_that_fit(view: TableView, width: int) -> list[Column]:
    """Return all columns if there is room, otherwise the essential ones; none that is empty in every row."""
    first, *others = view.columns
    columns = [first, *(one for one in others if not view.items or any(map(one.show, view.items)))]
    needed = sum(_needed(column, view) + _GAP for column in columns) - _GAP
    return columns if needed <= width else [column for column in columns if not column.is_extra]


def _needed(column: Column, view: TableView) -> int:
    longest = _longest(column, view)
    return longest if column.is_number else min(longest, _WIDEST_TEXT)


def _longest(column: Column, view: TableView) -> int:
    lines = [*column.heading.splitlines(), *map(column.show, view.items)]
    return max(map(len, lines), default=0)


def _longest_word(column: Column, view: TableView) -> int:
    words = [column.heading, *map(column.show, view.items)]
    return max((len(word) for text in words for word in text.split()), default=0)


def is_known(value: Value) -> bool:
    """Whether there is a value; NaN, which pandas uses, is none."""
    return value is not None and value is not pd.NA and not (isinstance(value, float) and math.isnan(value))


def data_rows(frame: pd.DataFrame) -> list[dict[str, Value]]:
    """Return the rows of a frame, with whole numbers as integers and None for unknown values."""
    rows = frame.convert_dtypes().to_dict("records")
    return [{name: value if is_known(value) else None for name, value in row.items()} for row in rows]


def csv_lines(rows: Sequence[DataRow]) -> str:
    """Return a line of headings, then a line for each row; empty if a value is not known."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
    if rows:
        writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def json_list(rows: Sequence[DataRow]) -> str:
    """Return a list of objects; null if a value is not known."""
    return json.dumps([dict(row) for row in rows], indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def pipe_table(rows: Sequence[DataRow]) -> str:
    """Return a Markdown table; empty if a value is not known."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([*map(_markdown_cell, row.values())] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _markdown_cell(value: Value) -> str:
    return "" if value is None else str(value).replace("|", r"\|").replace("\n", " ")


WRITERS: dict[TableFormat, Callable[[Sequence[DataRow]], str]] = {
    "csv": csv_lines,
    "json": json_list,
    "md": pipe_table,
}
"""Writers of the formats for programs."""
