"""Validation with the emulated device in place of a real one; its grid, arithmetic and resuming without any device."""

import io
import re
from dataclasses import replace
from itertools import product

import on_emulated_gpu as on_gpu
import pandas as pd
import pytest
import torch
from rich.console import Console

from bench.__main__ import main
from bench.cells.config import PROFILES, CellConfig
from bench.commands import validate
from bench.commands.validate import errors_view, validation_views
from bench.predict.predictor import predict_all
from bench.records.measured_columns import MEASURED_MEMORY
from bench.records.record import new_record
from bench.records.results_store import ResultsStore
from bench.report.table_formats import Printer
from bench.sweep.harness import columns_of
from bench.sweep.sweep import SILENT
from bench.units import MIB
from methods import METHODS

SETTINGS = (
    PROFILES["paper"],
    PROFILES["fast"],
    {"precision": "fp16", "attention": "sdpa", "checkpointing": "block", "accumulation_steps": 2, "averaging": "ema"},
)
PLAYED = [
    CellConfig(method=method, model="test_vit", res=64, batch_size=4, device="cuda", **axes)
    for axes, method in product(SETTINGS, METHODS)
]
COUNTERS = ("peak_allocated", "peak_reserved", "process")
NOT_ALWAYS_GIVEN = ["lora_rank", "lora_targets", "alloc_conf", "weights", "epochs", "epoch_images", "vram_bytes"]


@pytest.fixture(scope="module")
def played(emulated_pool):
    """Records of cells measured on the emulated device as if it were there, with what is predicted for that card."""
    stories = emulated_pool.map(on_gpu.story_of, [on_gpu.job(cell) for cell in PLAYED])
    return {
        cell: replace(
            new_record(cell),
            device="played by the emulated device",
            **columns_of(prediction),
            **{name: story.columns[name] for name in MEASURED_MEMORY},
        )
        for cell, story, prediction in zip(PLAYED, stories, predict_all(PLAYED, "emulated"), strict=True)
    }


@pytest.mark.parametrize("cell", PLAYED, ids=lambda cell: f"{cell.method}-{cell.precision}-{cell.attention}")
def test_a_cell_measured_in_a_process_of_its_own_takes_what_is_emulated_for_it_to_the_byte(played, cell):
    record = played[cell]
    measured, predicted = (
        {counter: getattr(record, f"{half}_{counter}_bytes") for counter in COUNTERS}
        for half in ("measured", "predicted")
    )
    assert measured == predicted


def test_measured_emulated_and_traced_stand_side_by_side(played, tmp_path):
    cells = PLAYED[: len(METHODS)]
    traced = validate.trace_cells(cells, tmp_path / "traced")
    table = validate.write_validation([played[cell] for cell in cells], traced, tmp_path)
    assert pd.read_csv(tmp_path / "validation.csv").columns.tolist() == table.columns.tolist()
    assert len(table) == 3 * len(METHODS) and table.drop(columns=NOT_ALWAYS_GIVEN).notna().all(axis=None)
    assert (table.emulated_error_pct == 0).all()
    by_trace = [traced[cell.cell_id].predicted_peak_allocated_bytes for cell in cells]
    allocated = table[table.counter == "allocated"]
    assert allocated.traced_bytes.tolist() == by_trace
    assert allocated.traced_error_pct.abs().max() < 0.5
    shown = text_of(*validation_views(table))
    for row in allocated.itertuples():
        errors = rf"\+0.00 +{re.escape(f'{row.traced_error_pct:+.2f}')}"
        assert re.search(rf"^ *{row.method} +{row.measured_bytes / MIB:,.0f} +{errors} ", shown, re.MULTILINE)
    assert (tmp_path / "validation.png").exists() and (tmp_path / "validation.svg").exists()


def text_of(*views):
    console = Console(width=200, file=io.StringIO(), record=True)
    Printer(console=console).show([], *views)
    return console.export_text()


@pytest.fixture
def cells():
    return validate.validation_cells("h200")


@pytest.fixture
def measured(monkeypatch):
    """Stands in for the device: 2 % above what was emulated; counts the cells that it was asked for."""
    asked = []

    def run_cell(cell, budget, on_phase, store):
        asked.append(cell)
        size = 1000 * (len(asked) + 1)
        return replace(
            new_record(cell),
            device="a GPU",
            predicted_by="emulated",
            predicted_peak_allocated_bytes=size,
            measured_peak_allocated_bytes=round(size * 1.02),
            predicted_peak_reserved_bytes=size,
            measured_peak_reserved_bytes=size,
        )

    monkeypatch.setattr(validate, "run_cell", run_cell)
    return asked


def test_the_grid_covers_methods_models_resolutions_batches_precisions_and_attention(cells):
    assert {cell.method for cell in cells} == set(METHODS)
    assert {cell.model for cell in cells} == {"vit_b", "vit_l"}
    for axis in ("res", "batch_size", "precision", "attention", "checkpointing"):
        assert len({getattr(cell, axis) for cell in cells}) > 1
    assert len({cell.cell_id for cell in cells}) == len(cells)


def test_a_further_call_goes_on_where_the_time_was_up(cells, measured, tmp_path):
    store = ResultsStore(tmp_path)
    assert validate.measure_cells(cells[:6], store, SILENT, limit_s=0) == []
    validate.measure_cells(cells[:2], store, SILENT, limit_s=60)
    records = validate.measure_cells(cells[:6], store, SILENT, limit_s=60)
    assert len(records) == 6 and len(measured) == 6
    assert len(pd.read_csv(store.csv_path)) == 6


def test_errors_are_signed_and_summed_up_without_sign(cells, measured, tmp_path):
    records = validate.measure_cells(cells[:5], ResultsStore(tmp_path), SILENT, limit_s=60)
    traced = {
        record.cell_id: replace(record, predicted_by="traced", predicted_peak_reserved_bytes=size)
        for record, size in zip(records, (1_000, 3_000, 6_000), strict=False)
    }
    table = validate.errors(records, traced)
    allocated, reserved = (table[table.counter == counter] for counter in ("allocated", "reserved"))
    assert allocated.emulated_error_pct.tolist() == pytest.approx([-100 * (1 - 1 / 1.02)] * 5, abs=0.05)
    assert reserved.traced_error_pct.tolist()[:3] == [-50, 0, 50] and reserved.traced_error_pct.isna().sum() == 2
    summaries = {(one.counter, one.engine): one for one in validate.summarize(table)}
    assert summaries["allocated", "emulated"].median_pct == pytest.approx(1.96, abs=0.05)
    assert summaries["reserved", "emulated"].worst_pct == 0
    worst = summaries["reserved", "traced"]
    assert (worst.num_cells, worst.median_pct, worst.worst_pct) == (3, 50, 50)
    assert {counter for counter, _ in summaries} == {"allocated", "reserved"}, "NVML said nothing"
    assert "reserved traced 3 50.00 50.00" in " ".join(text_of(errors_view(list(summaries.values()), 5, 6)).split())


def test_the_predicted_time_of_steps_is_held_against_those_that_were_timed(cells, measured, tmp_path):
    records = validate.measure_cells(cells[:4], ResultsStore(tmp_path), SILENT, limit_s=60)
    steps = [(0.2, 0.1), (0.1, 0.13), (0.1, None), (None, 0.1)]
    timed = [
        replace(record, step_time_s=took, predicted_step_time_s=predicted)
        for record, (took, predicted) in zip(records, steps, strict=True)
    ]
    table = validate.time_errors(timed)
    assert table.error_pct.tolist() == pytest.approx([-50, 30])
    (summary,) = validate.summarize_time(table)
    assert (summary.num_cells, summary.median_pct, summary.worst_pct) == pytest.approx((2, 40, 50))
    assert validate.summarize_time(validate.time_errors(records)) == []


def test_at_80_columns_each_counter_stands_next_to_what_was_emulated(cells, measured, tmp_path):
    records = validate.measure_cells(cells[:5], ResultsStore(tmp_path), SILENT, limit_s=60)
    records = [replace(record, measured_process_bytes=10**12, predicted_process_bytes=10**12) for record in records]
    console = Console(width=80, file=io.StringIO())
    traced = {record.cell_id: replace(record, predicted_by="traced") for record in records}
    Printer(console=console).show([], *validation_views(validate.errors(records, traced)))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line.split() for line in lines if line.startswith(f"{cells[0].method} ")]
    assert row == [cells[0].method, "0", "-1.96", "0", "+0.00", "953,674", "+0.00"]


@pytest.mark.parametrize("change", [{"optimizer": "sgd"}, {"seed": 1}, {"gpu": "a6000"}, {"weights": "w.pt"}], ids=str)
def test_cells_that_differ_in_anything_have_rows_of_their_own(cells, measured, tmp_path, change):
    (record,) = validate.measure_cells(cells[:1], ResultsStore(tmp_path), SILENT, limit_s=60)
    table = validate.errors([record, replace(record, cell_id="x", **change)], {})
    assert len(table) == 4 and sum(len(view.items) for view in validation_views(table)) == 2


def test_where_the_card_cannot_be_emulated_the_trace_stands_alone(cells, measured, tmp_path):
    records = validate.measure_cells(cells[:2], ResultsStore(tmp_path), SILENT, limit_s=60)
    table = validate.write_validation([replace(record, predicted_by="traced") for record in records], {}, tmp_path)
    assert table.emulated_bytes.isna().all() and (table.traced_bytes == [2000, 2000, 3000, 3000]).all()
    assert {one.engine for one in validate.summarize(table)} == {"traced"}


def test_a_cell_is_traced_once(tmp_path, monkeypatch):
    asked = PLAYED[:1]
    first = validate.trace_cells(asked, tmp_path)
    assert first[asked[0].cell_id].predicted_by == "traced"
    monkeypatch.setattr(validate, "predict_all", lambda cells, engine: [] if not cells else pytest.fail("traced again"))
    assert validate.trace_cells(asked, tmp_path) == first


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(capsys):
    assert main(["validate"]) == 2
    assert "validate must run on a machine with a CUDA device" in capsys.readouterr().err
