"""The campaign without a GPU: its cells, its time limit, resuming, and the paper's ratios next to fake measurements."""

import io
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd
import pytest
import torch
from rich.console import Console

from bench.__main__ import main
from bench.cards.gpus import GPUS
from bench.commands import campaign
from bench.commands.campaign import BUDGET, campaign_cells, ratios, run_campaign
from bench.records.record import new_record
from bench.records.results_store import ResultsStore
from bench.report.table_formats import Printer
from bench.sweep import harness
from bench.sweep.duration import Eta
from bench.sweep.sweep import SILENT
from methods import METHODS

CELLS = campaign_cells("h200")


def measured(cell, **columns):
    """A faked measurement: full fine-tuning takes 100 of everything, FPT+ a tenth of it."""
    share = 0.1 if cell.method == "fptplus" else 1.0
    sizes = {"measured_process_bytes": round(10**9 * share), "measured_peak_reserved_bytes": round(10**9 * share)}
    made = replace(
        new_record(cell), device="a GPU", throughput_img_s=10 / share, energy_j_per_img=5 * share,
        gross_energy_j_per_img=6 * share, step_time_s=1.0, wall_s=1.0, **sizes,
    )  # fmt: skip
    return replace(made, started_at=datetime.now(UTC).isoformat(timespec="milliseconds"), **columns)


def test_the_cells_are_those_of_the_paper_s_tables_in_both_profiles():
    trainings = [cell for cell in CELLS if cell.method in METHODS]
    assert len(CELLS) == len({cell.cell_id for cell in CELLS}) == 2 * 6 * 12
    assert len(trainings) == 2 * 6 * 10
    assert {(cell.model, cell.res) for cell in CELLS} == {("vit_b", 512)} | {
        ("vit_l", res) for res in (128, 256, 384, 512, 640)
    }
    assert [cell.precision for cell in CELLS] == ["fp32"] * 72 + ["bf16"] * 72
    assert CELLS[0].method == "full", "what the others are set in relation to comes first"


def test_ratios_are_to_full_fine_tuning_in_the_same_setting_beside_the_paper_s():
    records = [measured(cell) for cell in CELLS if cell.method in ("full", "fptplus", "fptplus_preloading")]
    table = ratios(records).set_index(["profile", "model", "res", "method"]).sort_index()
    row = table.loc["paper", "vit_b", 512, "fptplus"]
    assert (row.process_ratio, row.reserved_ratio, row.throughput_ratio) == pytest.approx((0.1, 0.1, 10))
    assert (row.energy_ratio, row.gross_energy_ratio) == pytest.approx((0.1, 0.1))
    assert row.paper_memory_ratio == pytest.approx(736 / 23128)
    assert row.paper_throughput_ratio == pytest.approx(357.37 / 18.48)
    assert row.paper_gross_energy_ratio == pytest.approx((107.60 / 357.37) / (280.92 / 18.48))
    preloading = table.loc["paper", "vit_b", 512, "fptplus_preloading"]
    assert preloading.paper_throughput_ratio == pytest.approx(32.81 / 18.48)
    large = table.loc["fast", "vit_l", 384, "fptplus"]
    assert large.process_ratio == pytest.approx(0.1) and 0 < large.paper_memory_ratio < 0.2
    assert pd.isna(table.loc["paper", "vit_l", 640, "fptplus"].paper_memory_ratio), "full ran out of memory there"


def test_the_table_has_a_part_for_each_setting_and_fits_80_columns():
    records = [measured(cell) for cell in CELLS if cell.method in ("full", "fptplus", "fptplus_preloading")]
    console = Console(width=80, file=io.StringIO())
    campaign.print_ratios(ratios(records), Printer(console=console))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and sum("relative to full" in " ".join(lines[i : i + 2]) for i in range(99)) > 12
    (row,) = [line.split() for line in lines if line.startswith("fptplus ")][:1]
    assert row == ["fptplus", "0.100", "0.032", "10.000", "19.338", "0.100", "0.100", "0.020"]


def test_without_full_fine_tuning_there_is_no_ratio():
    (row,) = ratios([measured(cell) for cell in CELLS if cell.method == "fptplus"][:1]).itertuples()
    assert pd.isna(row.process_ratio) and row.paper_memory_ratio > 0


def test_what_was_not_measured_has_no_ratio():
    full, other = (measured(next(c for c in CELLS if c.method == name)) for name in ("full", "lora"))
    table = ratios([full, replace(other, energy_j_per_img=None)]).set_index("method")
    assert pd.isna(table.energy_ratio["lora"]) and table.throughput_ratio["lora"] == 1


@pytest.mark.parametrize("change", [{"gpu": "h200"}, {"device": "another"}, {"seed": 1}, {"num_classes": 2}], ids=str)
def test_full_fine_tuning_of_another_machine_or_seed_is_no_reference(change):
    full, other = (measured(next(c for c in campaign_cells("a6000") if c.method == name)) for name in ("full", "lora"))
    table = ratios([full, other, replace(full, measured_process_bytes=1, **change)]).set_index("method")
    assert table.process_ratio["lora"] == 1


@pytest.fixture
def device(monkeypatch):
    """Measures a cell in a twentieth of a second; notes each."""
    asked = []

    def run_isolated(cell, budget, on_phase, cut_s, keep_log):
        asked.append((cell, cut_s))
        time.sleep(0.05)
        columns = vars(measured(cell))
        return {name: columns[name] for name in ("device", "step_time_s", "throughput_img_s", "measured_process_bytes")}

    monkeypatch.setattr(harness, "run_isolated", run_isolated)
    monkeypatch.setattr(harness, "predict", lambda cell, engine: None)
    monkeypatch.setattr(harness, "columns_of", lambda prediction: {})
    monkeypatch.setattr(harness, "device_lock", lambda device: nullcontext())
    monkeypatch.setattr(campaign, "predict_all", lambda cells: [None] * len(cells))
    monkeypatch.setattr(campaign, "_WRITING_S", 0.0)
    return asked


def test_a_call_ends_in_time_and_a_further_one_goes_on(device, tmp_path):
    store, eta = ResultsStore(tmp_path), Eta(BUDGET)
    first = run_campaign(CELLS, store, SILENT, eta, time.monotonic() + 0.6)
    assert 1 <= len(first) < len(CELLS)
    assert all(0 < cut_s <= 0.6 for _, cut_s in device), "a cell is cut where the call must end"
    more = run_campaign(CELLS[: len(first) + 2], store, SILENT, eta, time.monotonic() + 60)
    assert len(more) == len(first) + 2 == len(device)


def test_only_as_many_cells_are_predicted_as_a_call_can_hold(device, tmp_path, monkeypatch):
    counts = []
    monkeypatch.setattr(campaign, "predict_all", lambda cells: counts.append(len(cells)) or [None] * len(cells))
    run_campaign(CELLS[:3], ResultsStore(tmp_path), SILENT, Eta(BUDGET), time.monotonic() + 30)
    assert sum(counts) == 3 and counts[0] == 1 + int(30 / Eta(BUDGET).cell_s(CELLS[0]))


def test_a_cell_that_no_device_answers_is_tried_once_a_call(device, tmp_path, monkeypatch):
    silent = {"status": "failed", "status_detail": "import error"}
    monkeypatch.setattr(harness, "run_isolated", lambda cell, *_: device.append(cell) or silent)
    assert run_campaign(CELLS[:3], ResultsStore(tmp_path), SILENT, Eta(BUDGET), time.monotonic() + 60) == []
    assert device == CELLS[:3]


def test_the_command_measures_and_writes_the_ratios(device, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(campaign, "present_gpu", lambda: GPUS["h200"])
    monkeypatch.setattr(campaign, "campaign_cells", lambda gpu: CELLS[:12])
    for _ in range(2):
        assert campaign.main(campaign.CampaignConfig(limit_s=60, out=str(tmp_path))) == 0
        assert "12 of 12 cells measured" in capsys.readouterr().out
        assert len(pd.read_csv(tmp_path / "ratios.csv")) == 12
    assert len(device) == 12


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [([], "campaign must run on a machine with a CUDA device"), (["--limit-s", "0"], "limit-s must be above 0")],
)
def test_what_cannot_be_done_is_one_sentence(capsys, arguments, sentence):
    assert main(["campaign", *arguments]) == 2
    assert sentence in capsys.readouterr().err
