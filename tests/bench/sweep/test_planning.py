"""A plan says what a sweep will do, and writes nothing."""

from dataclasses import replace

import pytest

from bench.__main__ import main
from bench.cards.gpus import GPUS
from bench.cells.config import CellConfig
from bench.commands.plan import plan_summary
from bench.measure.measure import Budget
from bench.predict.predictor import why_traced
from bench.records.record import new_record
from bench.records.results_store import ResultsStore
from bench.sweep.duration import Eta, derived_training_time_s
from bench.sweep.planning import in_words, make_plan
from bench.sweep.sweep import Redo

SMALL = replace(GPUS["a6000"], memory_bytes=GPUS["a6000"].context.high_bytes + 30 * 2**20)
CELL = CellConfig(method="linear", model="test_vit", res=64, device="cuda", vram_bytes=SMALL.memory_bytes)
LARGE = replace(CELL, method="full", batch_size=128)


@pytest.fixture
def store(tmp_path):
    made = ResultsStore(tmp_path / "results")
    made.write(
        replace(new_record(CELL), device="a GPU", gpu_uuid="x", status="oom", started_at="2026-01-01T00:00:00+00:00")
    )
    return made


def test_a_plan_tells_what_is_measured_what_will_run_and_what_will_not_fit(store):
    cells = [CELL, LARGE, replace(CELL, method="fptplus"), replace(CELL, res=16)]
    plan = make_plan(cells, store, Redo(), Budget())
    assert [planned.is_settled for planned in plan.cells] == [True, False, False, False]
    assert [planned.fits for planned in plan.cells] == [None, "no", "yes", "yes"]
    assert plan.left_s == 3 * plan.eta.cell_s(cells[1]) > 0
    assert set(plan.predictions) == {cell.cell_id for cell in cells[1:]}
    summary = plan_summary(plan, SMALL, "soon")
    assert summary.startswith("4 cells: 1 measured before, 3 to run, about soon; predicted to need more than")
    assert summary.endswith(": full test_vit 64 px fp32")


def test_memory_that_must_do_is_asked_of_the_prediction_where_the_cells_have_the_whole_card():
    """As with --gpu-memory beside a device that measures."""
    plan = make_plan([replace(cell, vram_bytes=None) for cell in (CELL, LARGE)], None, Redo(), Budget())
    assert [planned.fits for planned in plan.cells] == ["yes", "yes"]
    assert plan_summary(plan, SMALL, "soon").endswith(": full test_vit 64 px fp32")
    assert plan_summary(plan, GPUS["a6000"], "soon").endswith(": none")


@pytest.mark.parametrize("engine", ["emulated", "traced"])
def test_the_engine_that_is_asked_for_predicts_and_progress_is_shown(engine):
    seen = []

    def track(items, count):
        seen.append(count)
        return items

    if engine == "emulated" and (reason := why_traced("auto")):
        pytest.skip(reason)
    (planned,) = make_plan([CELL], None, Redo(), Budget(), engine, track).cells
    assert planned.prediction.by == engine and seen == [1]


def test_redo_opens_what_is_settled(store):
    assert make_plan([CELL], store, Redo(what="oom"), Budget()).to_run == [CELL]
    assert make_plan([CELL], store, Redo(what="failed"), Budget()).to_run == []


def test_what_a_method_cannot_drive_is_refused_in_the_plan():
    cell = CellConfig(method="fpt", model="vit_s", res=16)
    (planned,) = make_plan([cell], None, Redo(), Budget()).cells
    assert planned.prediction is None and planned.fits is None
    assert in_words(planned.refusal).startswith("token_ratio must keep at least one of the 2 tokens")


def test_the_estimate_follows_what_cells_have_taken_here():
    eta = Eta(Budget())
    first = eta.cell_s(CELL)
    eta.learn(replace(new_record(CELL), wall_s=2 * first, gpu_uuid="x"))
    assert eta.cell_s(CELL) == pytest.approx(2 * first)
    eta.learn(replace(new_record(CELL), wall_s=100 * first, gpu_uuid="x", status="failed"))
    assert eta.cell_s(CELL) == pytest.approx(2 * first), "a cell that failed says nothing"


def test_on_a_cpu_the_estimate_grows_with_the_steps_until_the_budget_refuses_them():
    cells = [replace(CELL, device="cpu", seed=seed) for seed in range(3)]
    macs = {cell.cell_id: count for cell, count in zip(cells, (10**9, 10**10, 10**13), strict=True)}
    small, large, refused = map(Eta(Budget(cpu_s=30), (), macs, 1e11).cell_s, cells)
    assert refused < small < large


def test_the_derived_training_time_is_20_epochs_of_whole_batches():
    record = replace(new_record(CELL), step_time_s=0.5)
    assert derived_training_time_s(record, 1049) == 20 * 65 * 0.5
    assert derived_training_time_s(new_record(CELL), 1049) is None
    assert derived_training_time_s(replace(record, learnable_params=0), 1049) is None, "a pass is no training"


def test_the_command_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "results"
    options = ["--device", "cuda", "--method", "fptplus", "--vram", "1GiB", "--out", str(out)]
    assert main(["plan", "--model", "test_vit", "--res", "64", *options]) == 0
    printed = capsys.readouterr().out
    assert "2 cells" in printed and "fptplus_preloading" in printed and "with 1 GiB" in printed
    assert not out.exists()
