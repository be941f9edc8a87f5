"""The paper check: every printed cell, bands that fail on a wrong record, and contradictions."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bench.__main__ import main
from bench.paper.bands import KNOWN
from bench.paper.check import check, check_table
from bench.paper.evidence import PAPER_STACK, Evidence
from bench.paper.inconsistencies import inconsistencies
from bench.paper.printed import paper_table, printed_cells
from bench.paper.settings import SETTINGS, SIX_SIDE_LAYERS, all_cells, paper_cell
from bench.paper.stack.stack_rows import Stack, read_stack, write_stack
from bench.report.page import check_summary
from fptplus import InvalidInput

RESULTS = Path(__file__).parents[3] / "results"


@pytest.fixture(scope="module")
def comparisons():
    return check(Evidence(RESULTS))


@pytest.fixture
def results(tmp_path):
    """A copy of the records that a test may change."""
    shutil.copytree(RESULTS / "paper" / "records", tmp_path / "paper" / "records")
    shutil.copy(RESULTS / "paper" / PAPER_STACK, tmp_path / "paper")
    return tmp_path


def change(results, cell, **values):
    path = results / "paper" / "records" / f"{cell.cell_id}.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | values))


def find(comparisons, table, row, column):
    (one,) = [
        one
        for one in comparisons
        if (one.printed_cell.table, one.printed_cell.row, one.printed_cell.column) == (table, row, column)
    ]
    return one


def test_every_number_of_the_six_tables_is_held_against_something():
    numbers = sum(
        paper_table(number).select_dtypes("number").drop(columns=drop, errors="ignore").notna().sum().sum()
        for number, drop in (
            (1, []),
            (2, []),
            (3, ["res", "oom_on_48gb"]),
            (4, ["side_res"]),
            (5, ["num_prompts"]),
            (6, ["reduction_factor"]),
        )
    )
    stds = 8 * 20
    out_of_memory = 2 * 14  # memory and AUC
    in_figure_7 = 4
    assert len(printed_cells()) == numbers - stds + out_of_memory + in_figure_7


def test_no_cell_has_left_its_band(comparisons):
    assert not [(one.printed_cell.table, one.printed_cell.row) for one in comparisons if one.left_band]


def test_every_known_deviation_is_of_some_cell(comparisons):
    reasons = {one.reason for one in comparisons}
    assert {known.reason for known in KNOWN} <= reasons


def test_all_that_differs_has_a_reason(comparisons):
    assert not [one.printed_cell for one in comparisons if one.verdict == "differs" and not one.reason]


def test_ppe_and_pme_of_all_20_rows_come_out_exactly(comparisons):
    own = [one for one in comparisons if one.printed_cell.table == "I" and one.printed_cell.column in ("PPE", "PME")]
    assert len(own) == 40
    assert {f"{one.ours.value:.2f}" == f"{one.printed_cell.printed:.2f}" for one in own} == {True}


def test_the_flops_column_is_reproduced_by_its_own_convention(comparisons):
    own = {one.printed_cell.row: one for one in comparisons if one.printed_cell.column == "FLOPs"}
    for title in ("Full fine-tuning", "Linear probing", "BitFit", "Adapter", "LoRA", "AdaLoRA", "Preloading"):
        assert own[title].ours.value == pytest.approx(own[title].printed_cell.printed, rel=0.005)
    assert own["LoRA"].ours.value - own["Full fine-tuning"].ours.value > 19
    assert own["LoRA"].true_value - own["Full fine-tuning"].true_value == pytest.approx(0.6, abs=0.05)


def test_the_ratio_to_full_fine_tuning_is_that_of_both_columns(comparisons):
    one = find(comparisons, "I", "FPT+, supervised", "Mem.")
    full = find(comparisons, "I", "Full fine-tuning, supervised", "Mem.")
    assert one.ratio_printed == pytest.approx(736 / 23128)
    assert one.ratio_ours == pytest.approx(one.ours.value / full.ours.value)
    assert one.difference == pytest.approx(one.ours.value - 736)
    assert one.relative == pytest.approx(one.ours.value / 736 - 1)


def test_a_wrong_record_fails_the_check(results, capsys):
    assert main(["verify", "--results", str(results)]) == 0
    cell = paper_cell("lora")
    right = Evidence(results).record(cell).predicted_process_bytes
    change(results, cell, predicted_process_bytes=int(1.5 * right))
    assert main(["verify", "--results", str(results)]) == 1
    assert "LEFT ITS BAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "model", "res", "values"),
    [
        ("fptplus", "vit_b", 512, {"params_pct": 1.13}),
        ("full", "vit_l", 512, {"predicted_process_bytes": 40 * 2**30}),
        ("lora", "vit_l", 512, {"predicted_process_bytes": 60 * 2**30}),
        ("side_only", "vit_b", 512, {"predicted_process_bytes": 2**30 * 30}),
        ("lora", "vit_b", 512, {"fvcore_forward_macs": 88_000_000_000}),
    ],
    ids=["a parameter", "fits against the print", "no longer fits", "a component", "the FLOPs convention"],
)
def test_each_kind_of_number_has_a_band(results, method, model, res, values):
    change(results, paper_cell(method, model, res), **values)
    assert any(one.left_band for one in check(Evidence(results)))


@pytest.mark.parametrize("method", ["fptplus", "fptplus_prompts64", "fptplus_k2"])
def test_a_wrong_number_of_the_paper_s_software_leaves_its_band(results, method):
    path = results / "paper" / PAPER_STACK
    rows = [
        replace(row, training_reserved_mib=row.training_reserved_mib * 1.05) if row.method == method else row
        for row in read_stack(path).rows
    ]
    write_stack(path, Stack(rows))
    assert {one.printed_cell.cell.method for one in check(Evidence(results)) if one.left_band} == {method}


def test_fpt_and_fptplus_are_compared_on_the_paper_s_software(comparisons):
    """All 23 printed memories, FPT+ on ViT-L with 6 side layers; three were read after an evaluation."""
    own = {
        one.printed_cell.cell.cell_id: one
        for one in comparisons
        if one.ours and one.ours.record == PAPER_STACK and one.printed_cell.table != "Fig. 7"
    }
    assert len(own) == 23
    assert {one.ours.source for one in own.values()} == {"emulated"}
    differs = {one.printed_cell.cell.method for one in own.values() if one.verdict == "differs"}
    assert differs == {"fpt", "fptplus_k2", "fptplus_k4"}
    exact = [one for one in own.values() if one.verdict == "pass"]
    assert len(exact) == 20 and max(abs(one.difference) for one in exact) <= 2
    assert find(comparisons, "III", "FPT+, 128 px", "Mem.").printed_cell.cell.method == SIX_SIDE_LAYERS


def test_other_settings_of_fptplus_are_not_the_paper_s_software():
    evidence = Evidence(RESULTS)
    fused = paper_cell("fptplus", attention="sdpa")
    assert evidence.paper_memory_mib(fused) == evidence.memory_mib(fused)
    assert evidence.paper_memory_mib(paper_cell("lora")) == evidence.memory_mib(paper_cell("lora"))


def test_without_the_paper_s_software_its_cells_are_those_of_today_s(results):
    (results / "paper" / PAPER_STACK).unlink()
    one = find(check(Evidence(results)), "I", "FPT+, supervised", "Mem.")
    assert one.ours.record == paper_cell("fptplus").cell_id


def test_without_records_the_command_says_what_to_run(tmp_path, capsys):
    assert main(["verify", "--results", str(tmp_path)]) == 2
    assert "run `python -m bench reproduce`" in capsys.readouterr().err


def test_a_measured_record_takes_a_prediction_s_place(results):
    cell = paper_cell("full")
    path = results / "paper" / "records" / f"{cell.cell_id}.json"
    measured = json.loads(path.read_text()) | {
        "cell_id": "0" * 16,
        "device": "NVIDIA RTX A6000",
        "measured_peak_allocated_bytes": 2**34,
        "measured_process_bytes": 23_000 * 2**20,
        "throughput_img_s": 18.0,
    }
    folder = results / "a6000" / "records"
    folder.mkdir(parents=True)
    (folder / f"{'0' * 16}.json").write_text(json.dumps(measured))
    comparisons = check(Evidence(results))
    memory = find(comparisons, "I", "Full fine-tuning, supervised", "Mem.")
    assert (memory.ours.source, memory.ours.value) == ("measured", 23_000)
    assert find(comparisons, "II", "Full fine-tuning", "Throughput").verdict == "pass"


def test_a_number_says_whether_it_was_emulated_or_traced(results):
    change(results, paper_cell("lora"), predicted_by="emulated")
    change(results, paper_cell("bitfit"), predicted_by="traced")
    evidence = Evidence(results)
    assert (
        evidence.memory_mib(paper_cell("lora")).source == evidence.needed_mib(paper_cell("lora")).source == "emulated"
    )
    assert evidence.memory_mib(paper_cell("bitfit")).source == "predicted"


def test_another_card_s_measurement_is_shown_and_not_judged(results):
    change(
        results,
        paper_cell("full"),
        device="NVIDIA H100",
        measured_peak_allocated_bytes=2**34,
        measured_process_bytes=2**35,
    )
    one = find(check(Evidence(results)), "I", "Full fine-tuning, supervised", "Mem.")
    assert (one.verdict, one.left_band) == ("no record", False)
    assert "NVIDIA H100" in one.reason


def test_training_records_answer_the_auc_columns(results):
    (results / "gpu" / "training").mkdir(parents=True)
    table = pd.DataFrame({"method": ["lora"] * 2, "dataset": ["ddr"] * 2, "auc": [85.0, 86.0], "seed": [0, 1]})
    table.to_csv(results / "gpu" / "training" / "test.csv", index=False)
    one = find(check(Evidence(results)), "I", "LoRA, supervised", "DDR")
    assert (one.ours.source, one.ours.value, one.verdict) == ("trained", 85.5, "pass")


def test_a_training_table_without_its_columns_is_refused(results):
    (results / "training").mkdir()
    (results / "training" / "auc.csv").write_text("method,score\nlora,0.9\n")
    with pytest.raises(InvalidInput, match="must have the columns method, dataset and auc, it lacks auc, dataset"):
        Evidence(results)


def test_every_cell_of_the_paper_has_a_committed_record():
    evidence = Evidence(RESULTS)
    cells = all_cells()
    assert len(cells) == len({cell.cell_id for cell in cells})
    for cell in cells:
        assert evidence.record(cell).cell_id == cell.cell_id


def test_the_settings_of_the_fair_comparison_change_one_axis_each_before_they_add_up():
    assert [len(axes) for axes in SETTINGS.values()] == [0, 1, 1, 1, 1, 2, 3, 4]


def test_the_docs_say_how_many_numbers_pass(comparisons):
    page = (RESULTS.parent / "docs" / "paper.md").read_text(encoding="utf-8")
    assert check_summary(comparisons).partition(" No cell")[0] in page


def test_the_table_of_the_check_has_a_row_a_cell_and_never_a_0_for_nothing(comparisons):
    table = check_table(comparisons)
    assert len(table) == len(printed_cells())
    assert table[table.verdict == "no record"].ours.isna().all()


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("Table I, attention, supervised", "83.84"),
        ("Table II, fpt", "183.10 W, above the peak"),
        ("Table II, fptplus", "without the 31.76 s they are 1,052"),
        ("Sec. IV-A and Table II", "1,050 images an epoch"),
        ("Sec. IV-D", "286.61 W"),
        ("Sec. IV-E", "86.46"),
    ],
)
def test_a_known_contradiction_of_the_paper_is_found(where, number):
    assert any(number in one.but for one in inconsistencies() if one.where == where)
