"""Tables, figures and pages from records: the same records give the same files."""

import csv
import io
import shutil
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.cards.gpus import GPUS
from bench.commands.reproduce import figures_of, predict_missing, trained_figures, write_everything
from bench.paper.check import check
from bench.paper.evidence import PAPER_STACK, Evidence, Number
from bench.paper.preloading_cost import predict_preloading, read_preloading, write_preloading
from bench.paper.settings import paper_cell
from bench.paper.table2_time import FILE as TABLE2_TIME
from bench.predict.fit_grid import BATCHES, GridRow, completed, grid_families, grid_rows, read_grid, write_grid
from bench.predict.predictor import on_emulated_cards, predict, predict_all, why_traced
from bench.report.exhibit import Entry, Exhibit, csv_text, latex, markdown, write_exhibit
from bench.report.fair_tables import charged_mib, fair_tables
from bench.report.findings import findings_page
from bench.report.page import page
from bench.report.paper_figures import figure2
from bench.report.paper_tables import paper_tables, table1, table3
from bench.units import MIB
from fptplus import InvalidInput
from fptplus.training.efficiency import performance_efficiency

RESULTS = Path(__file__).parents[3] / "results"
PAPER = RESULTS / "paper"

needs_emulation = pytest.mark.skipif(why_traced("auto") is not None, reason=str(why_traced("auto")))


@pytest.fixture(scope="module")
def evidence():
    return Evidence(RESULTS)


@pytest.fixture(scope="module")
def passes():
    return read_preloading(PAPER / "preloading.csv")


@pytest.fixture(scope="module")
def exhibits(evidence, passes):
    return [*paper_tables(evidence), *figures_of(evidence, passes), *fair_tables(evidence, passes)]


EXAMPLE = Exhibit(
    name="example",
    title="50 % & more",
    headings=("Method", "Mem.", "AUC"),
    rows=[
        ("LoRA", Entry(number=Number(value=1234.5, source="predicted", record="abc")), Entry(number=None)),
        (
            "FPT+",
            Entry(number=Number(value=None, source="predicted", record="def")),
            Entry(number=Number(value=87.123, source="printed"), decimals=2, plus_minus=0.5),
        ),
    ],
)


def test_a_table_says_what_is_missing_out_of_memory_and_not_ours():
    lines = markdown(EXAMPLE).splitlines()
    assert lines[4] == "| LoRA | 1,234∗ | – |"
    assert lines[5] == "| FPT+ | /∗ | 87.12 ± 0.50† |"
    assert "† printed in the paper, not ours" in markdown(EXAMPLE)


def test_the_csv_has_a_line_a_number_with_its_record():
    rows = list(csv.DictReader(io.StringIO(csv_text(EXAMPLE))))
    assert rows[0] == {"Method": "LoRA", "column": "Mem.", "value": "1234.5", "source": "predicted", "record": "abc"}
    assert rows[1]["value"] == ""
    assert rows[2]["value"] == "/"


def test_latex_is_escaped():
    text = latex(EXAMPLE)
    assert r"\caption{50 \% \& more}" in text
    assert r"LoRA & 1,234\textsuperscript{$\ast$} & -- \\" in text
    assert r"\textsuperscript{\dag}" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


def test_every_form_of_an_exhibit_is_byte_for_byte_the_same_the_second_time(tmp_path, evidence):
    chosen = [EXAMPLE, figure2(evidence)]
    for folder in ("one", "two"):
        for exhibit in chosen:
            write_exhibit(exhibit, tmp_path / folder)
    first = sorted((tmp_path / "one").iterdir())
    assert {path.suffix for path in first} == {".csv", ".md", ".tex", ".png", ".svg"}
    for path in first:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    for path in (tmp_path / "one").glob("*.svg"):
        xml.etree.ElementTree.parse(path)


def test_the_committed_tables_are_what_the_committed_records_give(exhibits):
    for exhibit in exhibits:
        for suffix, form in ((".csv", csv_text), (".md", markdown), (".tex", latex)):
            committed = (PAPER / exhibit.name).with_suffix(suffix).read_text(encoding="utf-8")
            assert form(exhibit) == committed, f"{exhibit.name}{suffix} is stale: run `python -m bench reproduce`"
        assert (PAPER / f"{exhibit.name}.png").exists()
        assert (PAPER / f"{exhibit.name}.svg").exists()


def test_the_committed_findings_are_what_the_committed_records_give(evidence, passes):
    page_text = findings_page(evidence, passes, list(fair_tables(evidence, passes)))
    assert page_text == (PAPER / "findings.md").read_text(encoding="utf-8")


def test_the_committed_report_is_what_the_committed_records_give(evidence, passes):
    fair = list(fair_tables(evidence, passes))
    findings = findings_page(evidence, passes, fair)
    figures = [(PAPER / f"{f.name}.svg", f.title, " ".join(f.notes)) for f in figures_of(evidence, passes)]
    parts = evidence, list(read_grid(PAPER / "grid.csv")), check(evidence), findings, fair
    committed = (RESULTS / "report.html").read_text(encoding="utf-8")
    assert page(*parts, figures + trained_figures(RESULTS)) == committed
    assert "they are not drawn" in page(*parts, figures) and "they are not drawn" not in committed


def test_every_number_of_ours_names_a_record_that_is_there(exhibits):
    known = {path.stem for path in (PAPER / "records").glob("*.json")}
    for exhibit in exhibits:
        for line in csv.DictReader(io.StringIO(csv_text(exhibit))):
            if line["source"] in ("predicted", "emulated", "measured", "counted"):
                names = line["record"].split(", ")
                assert names[0] in known | {"preloading.csv", PAPER_STACK, TABLE2_TIME}, (exhibit.name, line)


@needs_emulation
@pytest.mark.parametrize("method", ["linear", "lora", "fptplus", "fptplus_k2", "side_fusion"])
def test_a_committed_record_is_what_is_predicted_today(evidence, method):
    """To the byte with the same PyTorch; another has other workspaces."""
    record, today = evidence.record(paper_cell(method)), predict(paper_cell(method), "emulated")
    is_same = record.torch_version == torch.__version__
    assert record.predicted_by == "emulated" and record.forward_macs == today.forward_macs
    assert record.predicted_process_bytes == pytest.approx(today.process_bytes, rel=0 if is_same else 0.05)


def test_table_1_is_ours_where_it_can_be(evidence):
    row = next(row for row in table1(evidence).rows if row[0] == "FPT+")
    assert row[2].number.value == evidence.record(paper_cell("fptplus")).params_pct
    assert (row[3].number.source, row[3].text) == ("emulated", "736")
    assert row[12].text == "87.12†"
    full_mib = evidence.needed_mib(paper_cell("full")).value
    assert row[14].number.value == performance_efficiency(87.12, row[3].number.value / full_mib)


def test_out_of_memory_is_a_slash_in_table_3(evidence):
    rows = {row[0]: [entry.text for entry in row[1:]] for row in table3(evidence).rows}
    assert [text[0] for text in rows["Full fine-tuning"][3:5]] == ["/", "/"]
    assert rows["FPT+"][:5] == ["570", "630", "718", "862", "1,050"]  # as printed
    assert "/" not in rows["FPT+ with 12 side layers"]


def test_charging_is_the_larger_of_training_and_preloading(evidence, passes):
    setting = "the paper's setting"
    own = next(p for p in passes if (p.method, p.res, p.attention) == ("fptplus", 512, "eager") and p.model == "vit_b")
    training = evidence.needed_mib(paper_cell("fptplus")).value
    charged = charged_mib(evidence, passes, "fptplus", "vit_b", 512, setting).value
    assert charged == max(training, own.process_bytes / 2**20) > training
    assert charged_mib(evidence, passes, "lora", "vit_b", 512, setting) == evidence.needed_mib(paper_cell("lora"))


def test_features_on_disk_are_as_many_bytes_as_their_shapes_say(tmp_path):
    """ViT-B at 512 px: keys and values of 6 layers, 12 heads, int(1025 · 0.2) tokens, 64 numbers of 4 bytes."""
    (found,) = predict_preloading([paper_cell("fptplus")])
    assert found.disk_bytes_per_image == 2 * 6 * 12 * 205 * 64 * 4
    write_preloading(tmp_path / "preloading.csv", [found])
    assert read_preloading(tmp_path / "preloading.csv") == [found]


@needs_emulation
@pytest.mark.parametrize("method", ["linear", "adalora"])
def test_the_grid_is_what_each_cell_alone_is_predicted_to_need(method, tmp_path):
    """AdaLoRA's model remembers how important its weights are; no batch may find what an earlier one left there."""
    family = next(f for f in grid_families() if (f.method, f.attention, f.precision) == (method, "sdpa", "bf16"))
    (rows,) = on_emulated_cards(grid_rows, [family])
    asked = [(224, 4), (224, 8), (768, 64)]
    cells = [replace(family, res=res, batch_size=batch) for res, batch in asked]
    for (res, batch), alone in zip(asked, predict_all(cells, "emulated"), strict=True):
        (row,) = [row for row in rows if row.res == res]
        assert row.reserved_mib[BATCHES.index(batch)] == round(alone.peak.reserved_bytes / MIB)
    write_grid(tmp_path / "grid.csv", rows)
    assert list(read_grid(tmp_path / "grid.csv")) == rows


def test_where_pytorch_fails_in_the_step_the_grid_says_that_its_memory_is_traced(tmp_path):
    axes = {"precision": "fp32", "attention": "eager", "checkpointing": "none"}
    emulated = GridRow(method="linear", model="test_vit", res=64, **axes, reserved_mib=(20,) * len(BATCHES))
    row = completed(replace(emulated, reserved_mib=(None, *emulated.reserved_mib[1:])), GPUS["a6000"])
    assert row.reserved_mib[0] > 0 and row.predicted_by == ("traced", *["emulated"] * (len(BATCHES) - 1))
    assert completed(emulated, GPUS["a6000"]) == emulated
    write_grid(tmp_path / "grid.csv", [row, emulated])
    assert list(read_grid(tmp_path / "grid.csv")) == [row, emulated]


def test_a_grid_of_an_earlier_version_says_how_to_make_it_again(tmp_path):
    lines = (PAPER / "grid.csv").read_text().splitlines()
    (tmp_path / "grid.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    with pytest.raises(InvalidInput, match="must have the column predicted_by, it lacks it"):
        list(read_grid(tmp_path / "grid.csv"))


def test_what_is_predicted_says_where_memory_is_traced(tmp_path, monkeypatch, capsys):
    """Nothing is said where nothing is predicted."""
    for name in ("all_cells", "preloading_cells", "grid_families"):
        monkeypatch.setattr(f"bench.commands.reproduce.{name}", list)
    monkeypatch.setattr("bench.commands.progress.why_traced", lambda engine: "memory is traced: no compiler.")
    for _ in range(2):
        predict_missing(tmp_path, False, lambda items, what, total: items)
    assert capsys.readouterr().err == "note: memory is traced: no compiler.\n"


def test_the_committed_grid_is_whole():
    rows = {(r.method, r.model, r.precision, r.attention, r.checkpointing): r for r in read_grid(PAPER / "grid.csv")}
    assert set(rows) == {(f.method, f.model, f.precision, f.attention, f.checkpointing) for f in grid_families()}


def test_nothing_is_predicted_again_that_is_there(tmp_path):
    def track(items, what, total):
        assert total == 0, what
        return items

    shutil.copytree(PAPER, tmp_path / "paper", ignore=shutil.ignore_patterns("*.png", "*.svg"))
    assert predict_missing(tmp_path, False, track) == 0


def test_figures_of_a_trained_model_are_shown_where_there_are_any(tmp_path, monkeypatch):
    shutil.copytree(PAPER, tmp_path / "paper", ignore=shutil.ignore_patterns("*.png", "*.svg"))
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "fig6_attention.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')

    def write_nothing_but_the_picture(exhibit, folder):
        (folder / f"{exhibit.name}.svg").write_text("<svg/>")

    monkeypatch.setattr("bench.commands.reproduce.write_exhibit", write_nothing_but_the_picture)
    write_everything(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "fig6 attention" in text
    assert "they are not drawn" not in text
