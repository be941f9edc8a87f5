"""Tables keep their numbers whole, and programs get every column."""

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from bench.report.table_formats import Column, Printer, TableView, csv_lines, json_list, number, pipe_table

VIEW = TableView(
    title="A title that is much too long for one line of a terminal, since it tells what all the rows have in common",
    columns=(
        Column(heading="Method", show=lambda item: item.name),
        *(number(f"Size {index}\nMiB", "size", ",.1f", is_extra=index > 3) for index in range(8)),
        number("Nowhere", "nothing"),
        Column(heading="Fits", show=lambda item: "no", is_number=True, styles={"no": "red"}),
    ),
    items=[SimpleNamespace(name="Prompt-tuning (VPT-deep), lora_rank 8", size=1_234_567.8, nothing=None)],
    notes=["A note with /a/path/" + 70 * "x" + " that stays in one piece."],
)
ROWS = [{"method": "full|x", "size_bytes": 1, "is_ok": True}, {"method": "lora", "size_bytes": None, "is_ok": False}]


def printed(width, view=VIEW):
    console = Console(width=width, file=io.StringIO())
    Printer(console=console).show([], view)
    return console.file.getvalue()


def test_brackets_and_colons_of_names_are_printed_as_they_are(capsys):
    item = SimpleNamespace(name="run[/old] [red]x[/] :smile:")
    columns = (Column(heading="Method [a]", show=lambda item: item.name),)
    Printer().show([], TableView(title="of [1] :smile:", columns=columns, items=[item]))
    printed_text = capsys.readouterr().out
    assert item.name in printed_text and "of [1] :smile:" in printed_text and "Method [a]" in printed_text


def test_a_narrow_table_has_the_essential_columns_with_whole_numbers():
    text = printed(80)
    assert text.count("1,234,567.8") == 4 and "Size 4" not in text
    assert all(len(line) <= 80 for line in text.splitlines() if "/a/path" not in line)
    assert "…" not in text
    for word in ("Prompt-tuning", "(VPT-deep),", "lora_rank", "no"):
        assert word in text.split()


def test_a_wide_table_has_all_columns_but_empty_ones():
    text = printed(200)
    assert text.count("1,234,567.8") == 8 and "Nowhere" not in text


def test_a_number_stays_whole_even_where_the_terminal_is_too_narrow():
    assert printed(30).count("1,234,567.8") == 4


def test_a_path_in_a_note_is_not_broken():
    assert "/a/path/" + 70 * "x" + "\n" in printed(80)


def test_a_table_without_rows_has_headings():
    empty = TableView(title="Nothing", columns=VIEW.columns, items=[])
    assert "Method" in printed(80, empty)


def test_every_form_has_every_column_and_is_empty_where_a_value_is_not_known():
    assert csv_lines(ROWS) == "method,size_bytes,is_ok\nfull|x,1,True\nlora,,False\n"
    assert json.loads(json_list(ROWS)) == ROWS
    heading, rule, *rows = pipe_table(ROWS).splitlines()
    assert heading == "| method | size_bytes | is_ok |" and rule == "| --- | --- | --- |"
    assert rows == ["| full\\|x | 1 | True |", "| lora |  | False |"]


def test_no_rows_are_an_empty_list():
    assert (csv_lines([]), json.loads(json_list([])), pipe_table([])) == ("", [], "")


@pytest.mark.parametrize("form", ["csv", "json", "md"])
def test_for_programs_tables_and_notes_go_to_the_error_stream(form):
    console, aside = (Console(file=io.StringIO(), width=80) for _ in range(2))
    printer = Printer(form=form, console=console, aside=aside)
    printer.show(ROWS, VIEW)
    printer.summarize(VIEW)
    printer.note("a note")
    assert console.file.getvalue() == "" and printer.rows == ROWS
    assert aside.file.getvalue().count("Method") == 1 and "a note" in aside.file.getvalue()
