"""Records that differ in card, seed or any other identifying field change no table of the paper's card."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.cells.config import CellConfig
from bench.paper.check import check, check_table
from bench.paper.evidence import PAPER_STACK, Evidence
from bench.paper.preloading_cost import read_preloading
from bench.paper.settings import paper_cell
from bench.records.record import Record
from bench.records.results_store import ResultsStore
from bench.report.exhibit import csv_text, numbers_of, sources_in_words
from bench.report.fair_tables import charged_mib, fair_tables
from bench.report.findings import findings_page
from bench.report.page_data import page_data
from bench.report.paper_figures import figure2, paper_figures
from bench.report.paper_tables import paper_tables, table1, table2
from bench.units import MIB
from fptplus import InvalidInput

PAPER = Path(__file__).parents[3] / "results" / "paper"
CELLS = [
    paper_cell(method, model, res) for method in ("full", "lora") for model, res in (("vit_b", 512), ("vit_l", 384))
]
MEASURED = {
    "measured_peak_allocated_bytes": 2**31,
    "measured_process_bytes": 2**32,
    "throughput_img_s": 1e4,
    "peak_power_w": 7.0,
    "mean_power_w": 6.0,
}
PREDICTED = {"predicted_process_bytes": 2**33, "params_pct": 50.0, "forward_macs": 1, "fvcore_forward_macs": 1}
STRANGERS = {
    "predicted for another card": {"gpu": "h200"},
    "measured on another card": {"gpu": "h200", "device": "NVIDIA H200", **MEASURED},
    "measured on another card than predicted for": {"device": "NVIDIA H200", **MEASURED},
    "of another seed": {"seed": 1, "device": "NVIDIA RTX A6000", **MEASURED},
    "of other classes": {"num_classes": 2, "device": "NVIDIA RTX A6000", **MEASURED},
    "of other weights": {"weights": "w.pt", "device": "NVIDIA RTX A6000", **MEASURED},
    "of a smaller card that is emulated": {"vram_bytes": 2**33},
    "out of memory on another card": {"gpu": "rtx3060", "device": "NVIDIA GeForce RTX 3060", "status": "oom"},
}


@pytest.fixture(scope="module")
def paper_folder(tmp_path_factory):
    """The paper's records and what else its tables are made of."""
    folder = tmp_path_factory.mktemp("results")
    shutil.copytree(PAPER / "records", folder / "paper" / "records")
    for name in (PAPER_STACK, "preloading.csv"):
        shutil.copy(PAPER / name, folder / "paper")
    return folder


def record_of(cell: CellConfig, **columns) -> Record:
    return Record(**json.loads((PAPER / "records" / f"{cell.cell_id}.json").read_text()) | columns)


def everything(results):
    evidence, passes = Evidence(results), read_preloading(results / "paper" / "preloading.csv")
    fair = list(fair_tables(evidence, passes))
    exhibits = [*paper_tables(evidence), *paper_figures(evidence), *fair]
    shown = {exhibit.name: (exhibit.title, csv_text(exhibit)) for exhibit in exhibits}
    return shown, check_table(check(evidence)).to_csv(), findings_page(evidence, passes, fair)


@pytest.fixture(scope="module")
def before(paper_folder):
    return everything(paper_folder)


@pytest.mark.parametrize("name", ["a100", "zz"], ids=["read before the paper's", "read after the paper's"])
def test_records_of_another_cell_change_no_table_no_figure_and_no_verdict(paper_folder, before, name):
    store = ResultsStore(paper_folder / name)
    for number, columns in enumerate(STRANGERS.values()):
        for cell in CELLS:
            store.write(record_of(cell, **PREDICTED | columns | {"cell_id": f"{cell.cell_id}{number}"}))
    try:
        after = everything(paper_folder)
        rows = page_data(Evidence(paper_folder), [], [])["rows"]
    finally:
        shutil.rmtree(paper_folder / name)
    assert after == before
    assert sum("H200" in row for row in rows) > len(CELLS), "the page shows them, and says the card"


@pytest.fixture
def measured_on(paper_folder, tmp_path):
    """Evidence in which cells of the paper were also measured, and their predictions are there or are not."""

    def make(device, *cells, predictions=True):
        shutil.copytree(paper_folder / "paper", tmp_path / "paper")
        store = ResultsStore(tmp_path / "machine")
        for cell in cells:
            store.write(record_of(cell, device=device, cell_id=f"m{cell.cell_id}", **MEASURED))
            if not predictions:
                (tmp_path / "paper" / "records" / f"{cell.cell_id}.json").unlink()
        return Evidence(tmp_path)

    return make


def test_a_measurement_on_the_paper_s_card_takes_the_prediction_s_place(measured_on):
    evidence = measured_on("NVIDIA RTX A6000", paper_cell("lora"))
    number = evidence.memory_mib(paper_cell("lora"))
    assert (number.source, number.value, number.card) == ("measured", 2**32 / MIB, "RTX A6000")
    assert table1(evidence).title.endswith("RTX A6000")
    assert sources_in_words(numbers_of(figure2(evidence).rows)) == "emulated, predicted and measured"


def test_a_table_whose_only_records_are_of_two_cards_is_refused_in_one_sentence(measured_on):
    evidence = measured_on("NVIDIA H200", paper_cell("lora"), predictions=False)
    with pytest.raises(InvalidInput, match=r"table1 must show one card, .* RTX A6000 and H200; move") as error:
        table1(evidence)
    assert "\n" not in str(error.value)
    with pytest.raises(InvalidInput, match="table2 must show one card"):
        table2(evidence)  # throughput measured there, times printed
    with pytest.raises(InvalidInput, match="figure2 must show one card"):
        figure2(evidence)


def test_a_pass_of_another_card_is_not_charged(paper_folder):
    evidence, passes = Evidence(paper_folder), read_preloading(paper_folder / "paper" / "preloading.csv")
    assert charged_mib(evidence, passes, "fptplus", "vit_b", 512, "the paper's setting").source == "emulated"
    elsewhere = [replace(one, gpu="h200") for one in passes]
    with pytest.raises(InvalidInput, match="fptplus with its preloading must show one card"):
        charged_mib(evidence, elsewhere, "fptplus", "vit_b", 512, "the paper's setting")


def test_a_ratio_is_of_two_numbers_of_one_card(measured_on):
    comparisons = check(measured_on("NVIDIA H200", paper_cell("full"), predictions=False))
    own = {c.printed_cell.row: c for c in comparisons if (c.printed_cell.table, c.printed_cell.column) == ("I", "Mem.")}
    assert own["LoRA, supervised"].ours.source == "emulated" and own["LoRA, supervised"].ratio_ours is None


def test_a_file_of_passes_of_an_earlier_version_says_how_to_make_it_again(tmp_path):
    lines = (PAPER / "preloading.csv").read_text().splitlines()
    (tmp_path / "preloading.csv").write_text("\n".join(line.rsplit(",", 2)[0] for line in lines))
    with pytest.raises(InvalidInput, match="it lacks gpu, predicted_by; predict it again"):
        read_preloading(tmp_path / "preloading.csv")
