"""The commands that measure run end to end on an emulated GPU, and nothing that they write counts as measured."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from commands_on_emulated_gpu import CELL

from bench.cells.grid import preloading_of
from bench.commands.compare import deltas
from bench.paper.evidence import Evidence
from bench.records.measured_columns import MEASURED_MEMORY, MEASURED_TIME
from bench.records.pairing import paired
from bench.records.results_store import ResultsStore
from bench.report import page

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The results of a machine."""
    return tmp_path_factory.mktemp("results") / "a6000"


@pytest.fixture(scope="module")
def said(emulated_card, folder):
    """What the commands have said on a machine with an emulated GPU."""
    result = subprocess.run(
        [sys.executable, HERE / "commands_on_emulated_gpu.py", folder],
        env=emulated_card("a6000") | {"PYTHONPATH": str(HERE.parents[2])},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def records(said, folder):
    return ResultsStore(folder).records()


def test_a_run_has_the_training_cell_and_its_preloading_pass(said, records):
    assert said["run"]["status"] == 0
    assert {record.cell_id for record in records} == {CELL.cell_id, preloading_of(CELL).cell_id}
    for record in records:
        assert (record.status, record.predicted_by) == ("ok", "emulated"), "also where the predictor starts its own"
        assert record.device == "NVIDIA RTX A6000, emulated"
        reserved_mib = record.predicted_peak_reserved_bytes / 2**20
        assert f"reserved {reserved_mib:,.0f} MiB" in record.status_detail, "as in its own process"


def test_a_further_call_runs_nothing_again(said):
    assert said["again"]["status"] == 0
    assert "2 measured before, 0 to run" in " ".join(said["again"]["printed"].split())


def test_no_table_calls_anything_measured(said, folder):
    assert all("measured on" not in " ".join(command["printed"].split()) for command in said.values())
    table = pd.read_csv(folder / "results.csv")
    assert table[[*MEASURED_MEMORY, *MEASURED_TIME]].isna().all(axis=None)


def test_the_campaign_has_no_ratio_of_it(said, folder):
    assert said["campaign"]["status"] == 0
    printed = " ".join(said["campaign"]["printed"].split())
    assert "2 of 2 cells ran on an emulated device, where nothing is measured" in printed
    ratios = pd.read_csv(folder / "ratios.csv").filter(regex="^(?!paper).*_ratio$")
    assert len(ratios) == 2 and ratios.isna().all(axis=None)


def test_validate_has_nothing_to_hold_predictions_against(said, folder):
    assert said["validate"]["status"] == 0
    printed = " ".join(said["validate"]["printed"].split())
    assert "1 cells ran on an emulated device, where nothing is measured" in printed
    assert pd.read_csv(folder / "validation.csv").empty


def test_two_runs_are_compared_by_their_predictions_alone(records):
    found = paired(records, records)
    assert len(found.pairs) == len(records)
    names = {delta.quantity.name for pair in found.pairs for delta in deltas(pair)}
    assert names == {"predicted_peak_reserved_bytes"}


def test_no_evidence_of_a_measurement_comes_from_it(records, folder):
    evidence = Evidence(folder.parent)
    assert {record.cell_id for record in evidence.records()} == {record.cell_id for record in records}
    assert evidence.memory_mib(CELL).source == "emulated"
    assert evidence.measured(CELL, "throughput_img_s") is None


def test_the_report_counts_and_names_no_measurement(records):
    assert page._summary(records).startswith("2 records, 0 of them measured on a GPU")
    assert page._environment(records)["Measured on"] == "none"
