"""Two folders side by side; every number is worked out by hand."""

import json
from dataclasses import replace

import pytest

from bench.__main__ import main
from bench.cells.config import CellConfig
from bench.commands.compare import compare, read_records
from bench.records.record import new_record
from bench.records.results_store import ResultsStore
from fptplus import InvalidInput

RECORD = replace(
    new_record(CellConfig(method="lora", model="vit_b", res=512, device="cuda")),
    device="a GPU",
    measured_peak_allocated_bytes=1000,
    step_time_s=1.0,
    step_time_p10_s=0.9,
    step_time_p90_s=1.1,
    throughput_img_s=16.0,
    energy_j_per_img=2.0,
)
OTHER = replace(RECORD, method="full", cell_id="full")


def slower(factor, **columns):
    times = {name: getattr(RECORD, name) * factor for name in ("step_time_s", "step_time_p10_s", "step_time_p90_s")}
    return replace(RECORD, throughput_img_s=RECORD.throughput_img_s / factor, **times, **columns)


def deltas(after):
    return {delta.quantity.name: delta for delta in compare([RECORD], [after])[0]}


def test_the_delta_is_signed_in_percent_of_the_first():
    found = deltas(replace(RECORD, measured_peak_allocated_bytes=1100, energy_j_per_img=1.0))
    assert found["measured_peak_allocated_bytes"].delta_pct == pytest.approx(10)
    assert found["energy_j_per_img"].delta_pct == pytest.approx(-50)
    assert found["measured_peak_allocated_bytes"].is_worse(5) and not found["energy_j_per_img"].is_worse(5)
    assert found["energy_j_per_img"].is_change(5)


def test_a_delta_under_the_threshold_is_no_change():
    delta = deltas(replace(RECORD, measured_peak_allocated_bytes=1100))["measured_peak_allocated_bytes"]
    assert not delta.is_change(10.1) and delta.is_change(9.9)


def test_less_throughput_is_worse_and_more_is_better():
    assert deltas(slower(2.0))["throughput_img_s"].is_worse(5)
    better = deltas(slower(0.5))["throughput_img_s"]
    assert better.is_change(5) and not better.is_worse(5)


def test_a_delta_within_the_spread_is_no_change():
    delta = deltas(slower(1.15))["throughput_img_s"]
    assert delta.spread_pct == pytest.approx(10)
    assert delta.is_within_spread and abs(delta.delta_pct) > 5 and not delta.is_change(5)


def test_what_either_side_has_not_measured_is_not_compared():
    assert "measured_process_bytes" not in deltas(RECORD)
    assert "energy_j_per_img" not in deltas(replace(RECORD, energy_j_per_img=None))


def test_cells_of_one_side_alone_are_counted():
    assert compare([RECORD, OTHER], [RECORD])[1:] == (1, 0)
    assert compare([RECORD], [RECORD, OTHER])[1:] == (0, 1)


def test_another_machine_s_record_of_the_cell_is_found():
    assert compare([RECORD], [replace(RECORD, gpu="h200", device="another", cell_id="x")])[0]


def test_energy_of_0_has_no_percentage():
    before = replace(RECORD, energy_j_per_img=0.0)
    (delta,) = [d for d in compare([before], [RECORD])[0] if d.quantity.name == "energy_j_per_img"]
    assert delta.delta_pct is None and not delta.is_change(0)


@pytest.fixture
def folders(tmp_path):
    def write(name, *records):
        store = ResultsStore(tmp_path / name)
        for record in records:
            store.write(record)
        return str(tmp_path / name)

    return write


def test_the_command_says_what_became_worse_with_its_status(folders, capsys):
    a, b = folders("a", RECORD, OTHER), folders("b", slower(2.0, measured_peak_allocated_bytes=900))
    assert main(["compare", a, b]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "-50.00" in printed and "worse" in printed and "better" in printed
    assert f"1 cells only in {a}, 0 only in {b}" in printed
    assert main(["compare", a, a]) == 0
    assert main(["compare", a, b, "--threshold-pct", "60"]) == 0


@pytest.mark.parametrize(
    ("second", "sentence"),
    [((), "compare needs folders with records/"), ((OTHER,), "compare needs a cell that both folders have")],
)
def test_folders_that_cannot_be_compared_are_refused(folders, capsys, second, sentence):
    assert main(["compare", folders("a", RECORD), folders("b", *second)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_without_records_is_not_made(tmp_path):
    with pytest.raises(InvalidInput, match="has none; name another"):
        read_records(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_at_80_columns_every_number_is_there_and_no_two_rows_look_alike(folders, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    size = 1_234_567 * 2**20
    smaller = replace(RECORD, vram_bytes=11 * 2**30, cell_id="small", measured_process_bytes=size)
    a, b = folders("a", RECORD, smaller), folders("b", RECORD, replace(smaller, measured_process_bytes=2 * size))
    assert main(["compare", a, b]) == 1
    printed = capsys.readouterr().out
    assert "1,234,567.0 MiB" in printed and "2,469,134.0 MiB" in printed and "11 GiB of memory" in printed
    assert max(len(line) for line in printed.splitlines() if a not in line and b not in line) <= 80


def test_programs_get_the_difference_with_its_units(folders, capsys):
    a, b = folders("a", RECORD), folders("b", replace(RECORD, measured_peak_allocated_bytes=1100))
    assert main(["compare", a, b, "--format", "json"]) == 1
    rows = {row["quantity"]: row for row in json.loads(capsys.readouterr().out)}
    row = rows["measured_peak_allocated_bytes"]
    assert (row["method"], row["before"], row["after"], row["verdict"]) == ("lora", 1000, 1100, "worse")
    assert row["delta_pct"] == pytest.approx(10) and row["spread_pct"] is None
