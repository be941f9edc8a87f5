"""Comparison of two folders; every number is worked out by hand."""

import json
from dataclasses import replace

import pytest

from bench.__main__ import main
from bench.cells.config import CellConfig
from bench.commands import compare
from bench.commands.compare import read_records
from bench.records.pairing import paired
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


def all_deltas(found):
    return [delta for pair in found.pairs for delta in compare.deltas(pair)]


def deltas(after):
    return {delta.quantity.name: delta for delta in all_deltas(paired([RECORD], [after]))}


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
    found = paired([RECORD, OTHER], [RECORD])
    assert (found.only_before, found.only_after) == ([OTHER], [])
    found = paired([RECORD], [RECORD, OTHER])
    assert (found.only_before, found.only_after) == ([], [OTHER])


def test_another_machine_s_record_of_the_cell_is_found():
    other = replace(RECORD, gpu="h200", device="another", cell_id="x", measured_peak_allocated_bytes=500)
    (pair,) = paired([RECORD], [other]).pairs
    assert pair.both("device") == "a GPU → another" and pair.both("gpu") == "a6000 → h200"
    assert {delta.quantity.name for delta in compare.deltas(pair)} >= {
        "measured_peak_allocated_bytes",
        "throughput_img_s",
    }


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"num_classes": 2}, {"weights": "w.pt"}, {"epochs": 1, "epoch_images": 16}], ids=str
)
def test_records_that_differ_in_what_identifies_them_are_compared_each_with_its_own(change):
    """One folder has both; the second of them is ten times slower in the other folder."""
    second = replace(RECORD, cell_id="second", **change)
    found = paired([RECORD, second], [RECORD, slower(10.0, cell_id="second", **change)])
    assert len(found.pairs) == 2 and not found.only_before and not found.only_after
    worse = [delta for delta in all_deltas(found) if delta.is_worse(5)]
    assert [delta.pair.after.cell_id for delta in worse] == ["second"]
    alone = paired([RECORD], [replace(RECORD, cell_id="second", **change)])
    assert alone.pairs == [] and len(alone.only_before) == len(alone.only_after) == 1


def test_machines_of_one_folder_are_compared_each_with_its_own():
    h200 = {"gpu": "h200", "device": "an H200", "cell_id": "h200"}
    found = paired([RECORD, replace(RECORD, **h200)], [RECORD, slower(10.0, **h200)])
    assert [pair.both("device") for pair in found.pairs] == ["a GPU", "an H200"]
    (worse,) = [delta for delta in all_deltas(found) if delta.is_worse(5)]
    assert worse.pair.after.gpu == "h200"
    found = paired([RECORD], [RECORD, slower(10.0, **h200)])
    assert len(found.pairs) == 1 and [record.gpu for record in found.only_after] == ["h200"]


def test_a_prediction_is_no_pair_of_a_measurement_where_both_folders_have_one_of_each():
    predicted = replace(RECORD, device=None, measured_peak_allocated_bytes=None, cell_id="p")
    h200 = {"gpu": "h200", "device": "an H200"}
    found = paired([RECORD, predicted], [replace(RECORD, **h200), replace(predicted, gpu="h200")])
    assert [pair.before.is_measured == pair.after.is_measured for pair in found.pairs] == [True, True]


def test_every_record_is_in_a_pair_or_in_one_folder_only():
    """Repeats of one measurement too: all are compared with all."""
    repeats = [replace(RECORD, cell_id=name) for name in ("x", "y")]
    before, after = [RECORD, OTHER], [*repeats, replace(RECORD, seed=7, cell_id="z")]
    found = paired(before, after)
    assert len(found.pairs) == 2
    for side, single, in_pairs in (
        (before, found.only_before, [pair.before for pair in found.pairs]),
        (after, found.only_after, [pair.after for pair in found.pairs]),
    ):
        assert {record.cell_id for record in side} == {record.cell_id for record in [*single, *in_pairs]}
        assert not {record.cell_id for record in single} & {record.cell_id for record in in_pairs}


def test_energy_of_0_has_no_percentage():
    before = replace(RECORD, energy_j_per_img=0.0)
    (delta,) = [d for d in all_deltas(paired([before], [RECORD])) if d.quantity.name == "energy_j_per_img"]
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
    assert f"only in {a}: full vit_b, 512 px, batch 16, fp32, eager, none, adamw, on a GPU" in printed
    assert main(["compare", a, a]) == 0
    assert main(["compare", a, b, "--threshold-pct", "60"]) == 0


def test_a_tenfold_slowdown_of_one_of_two_seeds_gives_status_1(folders, capsys):
    a = folders("a", RECORD, replace(RECORD, seed=1, cell_id="seed1"))
    b = folders("b", RECORD, slower(10.0, seed=1, cell_id="seed1"))
    for sides in ((a, b), (b, a)):
        assert main(["compare", *sides]) == int(sides == (a, b))
        printed = capsys.readouterr().out
        assert "2 pairs compared" in printed and "adamw, seed 1, " in " ".join(printed.split())


def test_another_machine_and_other_software_are_said(folders, capsys):
    before = replace(RECORD, torch_version="2.9", driver_version="550")
    after = replace(RECORD, torch_version="2.14", gpu="h200", device="an H200", cell_id="x", driver_version="550")
    assert main(["compare", folders("a", before), folders("b", after)]) == 0
    printed = capsys.readouterr().out
    assert "a GPU → an H200" in printed
    assert "PyTorch 2.9 → 2.14 in 1 pairs" in printed and "driver" not in printed


def test_a_cell_that_no_longer_runs_is_worse(folders, capsys):
    after = replace(RECORD, status="oom", status_detail="asked for 1 GiB", throughput_img_s=None)
    assert main(["compare", folders("a", RECORD), folders("b", after)]) == 1
    assert "ok → oom: lora vit_b, 512 px" in capsys.readouterr().out
    assert main(["compare", folders("c", after), folders("d", RECORD)]) == 0
    assert "oom → ok" in capsys.readouterr().out


def test_a_pair_without_a_number_in_common_is_named(folders, capsys):
    nothing = {"measured_peak_allocated_bytes": None, "throughput_img_s": None, "energy_j_per_img": None}
    a, b = folders("a", RECORD, OTHER), folders("b", RECORD, replace(OTHER, **nothing))
    assert main(["compare", a, b]) == 0
    assert "nothing measured or predicted in both: full vit_b" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ((), "compare needs folders with records/"),
        ((OTHER,), "compare needs a cell that both folders have"),
        ((replace(RECORD, seed=2),), "share none: their nearest cells differ in seed."),
    ],
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
    assert (
        "1,234,567.0 MiB" in printed
        and "2,469,134.0 MiB" in printed
        and "11 GiB of memory" in " ".join(printed.split())
    )
    assert max(len(line) for line in printed.splitlines() if a not in line and b not in line) <= 80


def test_programs_get_the_difference_with_its_units(folders, capsys):
    a, b = folders("a", RECORD), folders("b", replace(RECORD, measured_peak_allocated_bytes=1100))
    assert main(["compare", a, b, "--format", "json"]) == 1
    rows = {row["quantity"]: row for row in json.loads(capsys.readouterr().out)}
    row = rows["measured_peak_allocated_bytes"]
    assert (row["method"], row["before"], row["after"], row["verdict"]) == ("lora", 1000, 1100, "worse")
    assert row["delta_pct"] == pytest.approx(10) and row["spread_pct"] is None
