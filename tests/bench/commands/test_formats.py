"""Every command that prints results: 80 characters for people, every column and nothing else for programs."""

import csv
import io
import json

import pytest

from bench.__main__ import main
from bench.records.record import COLUMNS

SMALL = ["--model", "test_vit", "--res", "32", "--method", "linear", "--engine", "traced"]
COMMANDS = {
    "run": [*SMALL, "--out", "OUT"],
    "plan": [*SMALL, "--out", "OUT"],
    "advise": SMALL,
    "why": [*SMALL, "--rules", "--out", "OUT"],
    "published": ["--out", "OUT"],
    "verify": [],
    "doctor": [],
}
EXPECTED = {
    "run": {"method", "predicted_process_bytes", "measured_process_bytes"},
    "plan": {"method", "predicted_process_bytes", "fits", "expected_time_s"},
    "advise": {"method", "fits", "largest_batch_size", "remedies", "preloading_process_bytes"},
    "why": {"method", "part", "where", "allocated_bytes"},
    "published": {"model", "measured_mib", "emulated_mib", "error_pct"},
    "verify": {"row", "printed", "ours", "verdict", "reason"},
    "doctor": {"what", "verdict", "detail"},
}


@pytest.fixture
def command(quick, tmp_path, capsys, monkeypatch):
    """Call a command in a terminal of 80 columns; gives its output and errors."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(name, *options):
        arguments = [str(tmp_path) if word == "OUT" else word for word in COMMANDS[name]]
        assert main([name, *arguments, *options]) == 0
        return capsys.readouterr()

    return call


@pytest.mark.parametrize("name", COMMANDS)
def test_people_get_80_characters_and_nothing_is_cut(command, name):
    lines = command(name).out.splitlines()
    assert lines and not [line for line in lines if len(line) > 80 and "/" not in line]
    assert not [line for line in lines if "…" in line]


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_a_list_of_objects_and_notes_go_elsewhere(command, name):
    said = command(name, "--format", "json")
    rows = json.loads(said.out)
    assert rows and all(row.keys() >= EXPECTED[name] for row in rows)
    assert name not in ("run", "verify", "published") or said.err


@pytest.mark.parametrize("name", COMMANDS)
def test_csv_has_every_column_and_is_empty_where_a_value_is_not_known(command, name):
    rows = list(csv.DictReader(io.StringIO(command(name, "--format", "csv").out)))
    assert rows and rows[0].keys() >= EXPECTED[name]
    if name == "run":
        assert tuple(rows[0]) == COLUMNS
        assert rows[0]["measured_process_bytes"] == "" and int(rows[0]["predicted_process_bytes"]) > 2**20


@pytest.mark.parametrize("name", COMMANDS)
def test_markdown_is_one_table(command, name):
    lines = command(name, "--format", "md").out.splitlines()
    assert len(lines) > 2 and all(line.startswith("| ") and line.endswith(" |") for line in lines)
    assert set(lines[1]) == set("|- ")


def test_an_unknown_format_is_refused(quick, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--format", "xml"])
    assert stop.value.code == 2 and "xml" in capsys.readouterr().err
