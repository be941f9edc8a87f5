"""Validation without a GPU: the grid, the arithmetic and the going on; the measuring itself needs a device."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from bench import validate
from bench.__main__ import main
from bench.record import new_record
from bench.results_store import ResultsStore
from bench.sweep import Progress
from methods import METHODS

SILENT = Progress(begin=lambda cell: None, end=lambda record: None)


@pytest.fixture
def cells():
    return validate.validation_cells("h200")


@pytest.fixture
def measured(monkeypatch):
    """Stands in for the device: 2 % above the prediction; counts the cells that it was asked for."""
    asked = []

    def run_cell(cell, budget, on_phase):
        asked.append(cell)
        size = 1000 * (len(asked) + 1)
        return replace(
            new_record(cell),
            device="a GPU",
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
    summaries = {one.counter: one for one in validate.write_validation(records, tmp_path)}
    table = pd.read_csv(tmp_path / "validation.csv")
    assert table[table.counter == "allocated"].error_pct.tolist() == pytest.approx(
        [-100 * (1 - 1 / 1.02)] * 5, abs=0.05
    )
    assert summaries["allocated"].median_pct == pytest.approx(1.96, abs=0.05)
    assert summaries["reserved"].worst_pct == 0
    assert "process" not in summaries, "NVML said nothing, so there is nothing to compare"
    assert (tmp_path / "validation.png").exists() and (tmp_path / "validation.svg").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(capsys):
    assert main(["validate"]) == 2
    assert "validate must run on a machine with a CUDA device" in capsys.readouterr().err
