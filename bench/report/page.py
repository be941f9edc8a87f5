"""The report as one HTML file: every record, the charts, the GPU question, the paper check; no server, no network."""

import base64
import html
import json
import re
from collections import Counter
from pathlib import Path

from bench.cards.gpus import GPUS
from bench.paper.check import Comparison
from bench.paper.evidence import Evidence
from bench.paper.inconsistencies import inconsistencies
from bench.paper.printed import DATASETS
from bench.predict.fit_grid import GridRow
from bench.records.record import Record
from bench.units import MIB

from .exhibit import Exhibit, texts
from .page_data import memory_source, page_data
from .templates import asset, render


def page(
    evidence: Evidence,
    grid: list[GridRow],
    comparisons: list[Comparison],
    findings: str,
    fair: list[Exhibit],
    figures: list[tuple[Path, str, str]],
) -> str:
    """Return the report as one HTML document.

    Args:
        evidence: the records.
        grid: predicted memory for the GPU question.
        comparisons: the paper check.
        findings: the findings page in Markdown; its words are used, its tables are not.
        fair: the tables of the fair comparison.
        figures: paths, titles and notes of the pictures to show.
    """
    records = evidence.records()
    return render(
        "report.html.j2",
        summary=_summary(records),
        findings=_paragraphs(findings),
        fair=[_html_table(table) for table in fair],
        figures=[{"uri": _data_uri(path), "title": title, "notes": notes} for path, title, notes in figures],
        has_trained_figures=any("training" in path.parts for path, _, _ in figures),
        performance_source="trained where records exist, else the paper's"
        if evidence.training.dataset.isin(DATASETS).any()
        else "the paper's",
        check_summary=check_summary(comparisons),
        contradictions=inconsistencies(),
        environment=_environment(records),
        data=script_json(page_data(evidence, grid, comparisons)),
        style=asset("report.css"),
        tables_js=asset("tables.js"),
        charts_js=asset("charts.js"),
        fits_js=asset("fits.js"),
    )


def script_json(value: object) -> str:
    """JSON that can stand in a script element: none of its texts can end the element or begin a comment there."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def check_summary(comparisons: list[Comparison]) -> str:
    """Return how many printed cells pass, in a sentence."""
    counts = Counter(one.verdict for one in comparisons)
    left = sum(one.left_band for one in comparisons)
    answered = len(comparisons) - counts["no record"]
    return (
        f"{len(comparisons)} numbers are printed; {answered} have one of ours next to them: {counts['pass']} pass, "
        f"{counts['warn']} are near, {counts['differs']} differ. "
        + ("No cell left the band in which it is known to be." if not left else f"{left} left their band.")
    )


def _summary(records: list[Record]) -> str:
    counts = Counter(memory_source(record) for record in records)
    return (
        f"{len(records)} records, {counts['measured']} of them measured on a GPU, {counts['emulated']} emulated, "
        f"{counts['predicted']} predicted."
    )


def _html_table(table: Exhibit) -> dict:
    return {
        "title": table.title,
        "headings": table.headings,
        "is_label": [isinstance(cell, str) for cell in table.rows[0]],
        "rows": [texts(row) for row in table.rows],
        "footnotes": table.footnotes,
    }


def _paragraphs(markdown: str) -> str:
    """Return the words of the findings page as HTML: its introduction, its numbered list, and the open questions."""
    blocks = markdown.partition("\n**")[0].strip().split("\n\n")[1:]
    bold = re.compile(r"\*\*(.+?)\*\*")
    made = []
    for block in blocks:
        text = re.sub(r"`(.+?)`", r"<code>\1</code>", bold.sub(r"<strong>\1</strong>", html.escape(block, quote=False)))
        number = re.match(r"(\d+)\. ", text)
        made.append(f'<ol start="{number[1]}"><li>{text[number.end() :]}</li></ol>' if number else f"<p>{text}</p>")
    return "\n".join(made).replace("</ol>\n<ol", "</ol><ol")


def _data_uri(path: Path) -> str:
    kind = {".svg": "svg+xml", ".png": "png"}[path.suffix]
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _environment(records: list[Record]) -> dict[str, str]:
    """Return what the records were made with."""

    def all_of(values) -> str:
        return ", ".join(sorted({str(value) for value in values if value is not None})) or "none"

    dirty = sum(bool(record.git_dirty) for record in records)
    return {
        "PyTorch": all_of(record.torch_version for record in records),
        "Commits": all_of(record.git_commit for record in records),
        "Records made with uncommitted changes": str(dirty),
        "Predicted for": all_of(GPUS[record.gpu].title if record.gpu in GPUS else record.gpu for record in records),
        "Measured on": all_of(record.device for record in records if record.is_measured),
        "CUDA context assumed": f"{GPUS['a6000'].context_bytes // MIB} MiB ({GPUS['a6000'].context_source})",
        "Paper": "Huang et al., Boosting Memory Efficiency in Transfer Learning for High-Resolution Medical Image "
        "Classification (FPT+); NVIDIA RTX A6000, PyTorch 2.0.0",
    }
