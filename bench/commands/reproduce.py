"""`python -m bench reproduce`: the paper's tables and figures, the findings and the report, from records."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.cells.config import CellConfig
from bench.measure.measure import Budget
from bench.paper.check import check, check_table
from bench.paper.evidence import PAPER_FOLDER, Evidence
from bench.paper.preloading_cost import (
    PreloadingCost,
    predict_preloading,
    preloading_cells,
    read_preloading,
    write_preloading,
)
from bench.paper.settings import all_cells
from bench.predict.fit_grid import GridRow, grid_families, grid_rows, read_grid, write_grid
from bench.predict.predictor import on_emulated_cards, predict_all, why_traced
from bench.records.record import Record
from bench.records.results_store import ResultsStore
from bench.report.exhibit import Exhibit, write_exhibit
from bench.report.fair_tables import fair_tables
from bench.report.findings import findings_page
from bench.report.memory_and_time import memory_and_time
from bench.report.page import page
from bench.report.paper_figures import paper_figures
from bench.report.paper_tables import paper_tables
from bench.report.table_formats import Printer
from bench.sweep.harness import run_cell
from fptplus.own_folder import own_folder
from fptplus.whole_file import whole_file

from .progress import say_engine, tracked

Track = Callable[[Iterable, str, int], Iterable]
"""Shows progress over an iterable: (iterable, description, number of items)."""


def predict_missing(results: Path, again: bool, track: Track) -> int:
    """Predict the paper's cells, the preloading passes and the grid if `results/paper` does not hold them.

    Args:
        results: the results folder.
        again: whether to predict even what is there.
        track: shows progress.

    Returns:
        The number of predictions made.
    """
    folder = results / PAPER_FOLDER
    store = ResultsStore(folder)
    cells = [cell for cell in all_cells() if again or not _is_answered(store.find(cell.cell_id))]
    if cells or again or not all((folder / name).exists() for name in ("preloading.csv", "grid.csv")):
        say_engine("auto")
    try:
        for cell, answer in zip(cells, track(predict_all(cells), "cells", len(cells)), strict=True):
            store.write(run_cell(cell, Budget(), prediction=answer, store=store))
    finally:
        store.write_csv()
    passes_done = _predict_into(folder / "preloading.csv", again, preloading_cells(), _preloading, track)
    families_done = _predict_into(folder / "grid.csv", again, grid_families(), _grid, track)
    return len(cells) + passes_done + families_done


def _is_answered(record: Record | None) -> bool:
    return record is not None and (record.status == "ok" or record.is_measured)


def _predict_into(path: Path, again: bool, cells: list[CellConfig], kind: "_Kind", track: Track) -> int:
    """Write one CSV file of predictions if it is missing. Return the number of predictions made."""
    if path.exists() and not again:
        return 0
    predict, write = kind
    found = list(track(predict(cells), path.stem, len(cells)))
    with whole_file(path) as beside:
        write(beside, found)
    return len(cells)


def _write_families(path: Path, families: list[list[GridRow]]) -> None:
    write_grid(path, [row for family in families for row in family])


def _grid_families(families: list[CellConfig]) -> Iterator[list[GridRow]]:
    """Yield the grid's rows, family by family.

    Raises:
        CannotEmulate: if the emulated device does not run here; the committed grid then stays.
    """
    why_traced("emulated")
    for rows in on_emulated_cards(grid_rows, families):
        if isinstance(rows, Exception):
            raise rows
        yield rows


_Kind = tuple[Callable[[list[CellConfig]], Iterable], Callable[[Path, list], None]]
_preloading: _Kind = (predict_preloading, write_preloading)
_grid: _Kind = (_grid_families, _write_families)


def write_everything(results: Path) -> None:
    """Write tables, figures, findings and paper check to `results/paper`, and `results/report.html`, from records only.

    Everything is written to a neighbouring folder first and moved when it is complete.
    """
    folder, evidence = results / PAPER_FOLDER, Evidence(results)
    passes, grid = read_preloading(folder / "preloading.csv"), list(read_grid(folder / "grid.csv"))
    fair, figures = list(fair_tables(evidence, passes)), figures_of(evidence, passes)
    comparisons, findings = check(evidence), findings_page(evidence, passes, fair)
    with own_folder(results, ".reproduce.") as made:
        for exhibit in (*paper_tables(evidence), *figures, *fair):
            write_exhibit(exhibit, made)
        drawn = [(made / f"{figure.name}.svg", figure.title, " ".join(figure.notes)) for figure in figures]
        document = page(evidence, grid, comparisons, findings, fair, drawn + trained_figures(results))
        check_table(comparisons).to_csv(made / "check.csv", index=False)
        (made / "findings.md").write_text(findings, encoding="utf-8")
        (made / "report.html").write_text(document, encoding="utf-8")
        for path in made.iterdir():
            path.replace((results if path.name == "report.html" else folder) / path.name)


def figures_of(evidence: Evidence, passes: list[PreloadingCost]) -> list[Exhibit]:
    """Return the paper's figures, and memory against time if the records hold any time."""
    against_time = memory_and_time(evidence, passes)
    return list(paper_figures(evidence)) + [against_time] * (against_time is not None)


def trained_figures(results: Path) -> list[tuple[Path, str, str]]:
    """Return pictures left by training: Figures 6 and 9, which show what a trained model attends to."""
    found = sorted(path for path in (results / "training").glob("fig*") if path.suffix in (".svg", ".png"))
    pictures = {path.stem: path for path in found}  # the SVG, if there are several of one name
    note = "From a model trained by us; results/README.md says on what."
    return [(path, stem.replace("_", " "), note) for stem, path in pictures.items()]


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Make the paper's tables and figures, the findings and the HTML report from the records under `results/`."""

    again: bool = False
    """Predict every cell again, even those that have a record; this takes some minutes."""

    results: str = "results"
    """Results folder with the records. Tables and figures go to paper/ in it, the report to report.html."""


def main(config: ReproduceConfig) -> int:
    """Write the tables, figures, findings and report."""
    results = Path(config.results)
    predicted = predict_missing(results, config.again, lambda items, what, total: tracked(items, total, what))
    write_everything(results)
    traced = sum(record.predicted_by == "traced" for record in ResultsStore(results / PAPER_FOLDER).records())
    remark = f"; memory of {traced} cells is traced, not emulated, and marked ∗" if traced else ""
    Printer().note(
        f"{predicted} predictions made, all others were there{remark}; tables, figures and findings in "
        f"{results}/paper, report in {results}/report.html"
    )
    return 0
