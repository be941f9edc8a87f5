"""A table or figure of the paper as data: written as CSV, Markdown, LaTeX, PNG and SVG from the same entries."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import wrap

from bench.paper.evidence import Number
from fptplus import InvalidInput

from .figures import figure

MARKS = {
    "printed": "†",
    "computed": "‡",
    "measured": "§",
    "trained": "¶",
    "predicted": "∗",
    "emulated": "",
    "counted": "",
}
LEGEND = {
    "printed": "† printed in the paper, not ours",
    "computed": "‡ computed from this row, its AUC being the paper's",
    "measured": "§ measured",
    "trained": "¶ trained by us",
    "predicted": "∗ predicted",
    "emulated": "memory without a mark is emulated",
    "counted": "parameters and multiply-accumulates are counted",
}
OUT_OF_MEMORY, NO_NUMBER = "/", "–"
_HEADING_WIDTH = 18
"""Characters of a heading in a picture before it wraps."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One number of an exhibit; None if there is none."""

    number: Number | None
    decimals: int = 0
    plus_minus: float | None = None

    @property
    def text(self) -> str:
        """Return the number as people read it, with the mark of its source."""
        if self.number is None:
            return NO_NUMBER
        if self.number.value is None:
            return OUT_OF_MEMORY + MARKS[self.number.source]
        text = f"{self.number.value:,.{self.decimals}f}"
        spread = "" if self.plus_minus is None else f" ± {self.plus_minus:.2f}"
        return text + spread + MARKS[self.number.source]


Row = tuple[str | Entry, ...]
"""A row: labels first, then entries."""


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A table, or a figure with the numbers it draws."""

    name: str
    """Name of its files, without extension."""

    title: str
    headings: tuple[str, ...]
    rows: list[Row]
    notes: tuple[str, ...] = ()
    draw: Callable[[Path], None] | None = None
    """Draws path.png and path.svg; None to draw the table itself."""

    @property
    def footnotes(self) -> list[str]:
        """Return the meaning of its marks, then its own notes."""
        sources = {number.source for number in numbers_of(self.rows)}
        marks = "; ".join(LEGEND[source] for source in LEGEND if source in sources)
        return [f"{marks[0].upper()}{marks[1:]}."] * bool(marks) + list(self.notes)


def card_of(name: str, rows: Iterable[Row]) -> str:
    """Return the card that the numbers of an exhibit hold for, for its title.

    Args:
        name: name of the exhibit.
        rows: rows of the exhibit.

    Raises:
        InvalidInput: if the numbers belong to several cards.
    """
    cards = dict.fromkeys(number.card for number in numbers_of(rows) if number.card is not None)
    if len(cards) != 1:
        raise InvalidInput(
            f"{name} must show one card, its numbers are of {' and '.join(cards) or 'none'}; move the records of the "
            "other cards out of the results folder, or predict for one card with `python -m bench reproduce`."
        )
    return next(iter(cards))


def sources_in_words(numbers: Iterable[Number]) -> str:
    """Describe where numbers come from, as `emulated`, or `emulated, predicted and measured`."""
    *others, last = dict.fromkeys(number.source for number in numbers)
    return f"{', '.join(others)} and {last}" if others else last


def numbers_of(rows: Iterable[Row]) -> Iterator[Number]:
    """Yield the numbers of an exhibit, row by row."""
    for row in rows:
        yield from (entry.number for entry in row if isinstance(entry, Entry) and entry.number)


def write_exhibit(exhibit: Exhibit, folder: Path) -> None:
    """Write all forms of an exhibit into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / exhibit.name
    for suffix, form in ((".csv", csv_text), (".md", markdown), (".tex", latex)):
        path.with_suffix(suffix).write_text(form(exhibit), encoding="utf-8")
    if exhibit.draw:
        exhibit.draw(path)
    else:
        draw_table(exhibit, path)


def csv_text(exhibit: Exhibit) -> str:
    """Return one line per number: labels, column, value, source and record.

    A value is empty if there is none, and `/` for out of memory.
    """
    labels = [h for h, cell in zip(exhibit.headings, exhibit.rows[0], strict=True) if isinstance(cell, str)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*labels, "column", "value", "source", "record"])
    for row in exhibit.rows:
        own = row[: len(labels)]
        for heading, entry in zip(exhibit.headings[len(labels) :], row[len(labels) :], strict=True):
            number = entry.number
            if number is None:
                writer.writerow([*own, heading, "", "", ""])
            else:
                value = OUT_OF_MEMORY if number.value is None else f"{number.value:.10g}"
                writer.writerow([*own, heading, value, number.source, number.record])
    return buffer.getvalue()


def texts(row: Row) -> list[str]:
    """Return a row as people read it."""
    return [cell if isinstance(cell, str) else cell.text for cell in row]


def markdown(exhibit: Exhibit) -> str:
    """Return a pipe table with its title and footnotes."""
    align = ["---" if isinstance(cell, str) else "--:" for cell in exhibit.rows[0]]
    lines = [list(exhibit.headings), align, *(texts(row) for row in exhibit.rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"**{exhibit.title}**\n\n{table}\n\n" + "\n\n".join(exhibit.footnotes) + "\n"


_LATEX = {"†": r"\textsuperscript{\dag}", "‡": r"\textsuperscript{\ddag}", "§": r"\textsuperscript{\S}"}
_LATEX |= {"¶": r"\textsuperscript{\P}", "±": r"$\pm$", "–": "--", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#"}
_LATEX |= {"·": r"$\cdot$", "×": r"$\times$", "∗": r"\textsuperscript{$\ast$}"}


def latex(exhibit: Exhibit) -> str:
    """Return a booktabs table."""

    def escaped(text: str) -> str:
        return "".join(_LATEX.get(letter, letter) for letter in text)

    columns = "".join("l" if isinstance(cell, str) else "r" for cell in exhibit.rows[0])
    body = "\n".join(" & ".join(map(escaped, texts(row))) + r" \\" for row in exhibit.rows)
    head = " & ".join(map(escaped, exhibit.headings)) + r" \\"
    notes = "\n\n".join(map(escaped, exhibit.footnotes))
    return (
        f"% needs \\usepackage{{booktabs}}\n\\begin{{table}}\n\\caption{{{escaped(exhibit.title)}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\n"
        f"\\footnotesize {notes}\n\\end{{table}}\n"
    )


def draw_table(exhibit: Exhibit, path: Path) -> None:
    """Draw the table as a picture."""
    heads = [wrap(heading, _HEADING_WIDTH) for heading in exhibit.headings]
    lines = [texts(row) for row in exhibit.rows]
    widths = [2 + max(map(len, [*head, *column])) for head, column in zip(heads, zip(*lines, strict=True), strict=True)]
    total, head_lines = sum(widths), max(map(len, heads))
    notes = [line for note in exhibit.footnotes for line in wrap(note, int(1.15 * total))]
    title = wrap(exhibit.title, int(0.85 * total))
    top, bottom = -head_lines - len(title) - 0.4, len(lines) + len(notes) + 0.8
    with figure(path, width=0.088 * total, height=0.22 * (bottom - top)) as axes:
        axes.set_axis_off()
        axes.set(xlim=(0, total), ylim=(bottom, top))
        write = partial(axes.text, va="center", fontsize=8.5, in_layout=False)
        for index, text in enumerate(title):
            write(0.5, top + 0.6 + index, text, weight="bold", fontsize=9.5)
        for column, (head, width) in enumerate(zip(heads, widths, strict=True)):
            is_label = isinstance(exhibit.rows[0][column], str)
            x = sum(widths[:column]) + (0.5 if is_label else width - 0.5)
            side = "left" if is_label else "right"
            for index, text in enumerate(head):
                write(x, index - len(head) + 0.3, text, weight="bold", ha=side)
            for index, line in enumerate(lines):
                write(x, index + 0.5, line[column], ha=side)
        for y, thick in ((-head_lines - 0.3, 1.2), (-0.15, 0.6), (len(lines) + 0.1, 1.2)):
            axes.plot([0, total], [y, y], color="black", linewidth=thick, clip_on=False)
        for index, note in enumerate(notes):
            write(0.5, len(lines) + 0.7 + index, note, fontsize=7.5, color="#444444")
