"""Make the paper's tables, figures and report: predict what no record answers yet, then draw all of it from records."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .config import CellConfig
from .grid import GridRow, grid_families, grid_rows, write_grid
from .harness import run_cell
from .measure import TimingBudget
from .paper.cells import all_cells
from .paper.evidence import PAPER_FOLDER
from .paper.preloading import predict_preloading, preloading_cells, write_preloading
from .record import Record
from .results_store import ResultsStore

Track = Callable[[Iterable, str, int], Iterable]
"""Shows progress over an iterable: (iterable, what, how many)."""


def predict_missing(results: Path, again: bool, track: Track) -> int:
    """Predict the paper's cells, the preloading passes and the grid, where `results/paper` does not hold them.

    Args:
        results: the results folder.
        again: predict also what is there.
        track: of progress.

    Returns:
        How many of them were predicted.
    """
    folder = results / PAPER_FOLDER
    store = ResultsStore(folder)
    cells = [cell for cell in all_cells() if again or store.find(cell.cell_id) is None]
    try:
        for record in track(_on_all_cores(_predict, cells), "cells", len(cells)):
            store.write(record)
    finally:
        store.write_csv()
    passes_done = _predict_into(folder / "preloading.csv", again, preloading_cells(), _preloading, track)
    families_done = _predict_into(folder / "grid.csv", again, grid_families(), _grid, track)
    return len(cells) + passes_done + families_done


def _predict_into(path: Path, again: bool, cells: list[CellConfig], kind: "_Kind", track: Track) -> int:
    """Fill one CSV file of predictions, if it is not there."""
    if path.exists() and not again:
        return 0
    predict, write = kind
    found = list(track(_on_all_cores(predict, cells), path.stem, len(cells)))
    temporary = path.with_name(f".{path.name}")
    write(temporary, found)
    temporary.replace(path)
    return len(cells)


def _write_families(path: Path, families: list[list[GridRow]]) -> None:
    write_grid(path, [row for family in families for row in family])


_Kind = tuple[Callable[[CellConfig], Any], Callable[[Path, list], None]]
_preloading: _Kind = (predict_preloading, write_preloading)
_grid: _Kind = (grid_rows, _write_families)

_predict: Callable[[CellConfig], Record] = partial(run_cell, budget=TimingBudget())


def _on_all_cores(work: Callable[[CellConfig], Any], cells: list[CellConfig]) -> Iterator[Any]:
    """Results in the order of the cells."""
    context = multiprocessing.get_context("fork") if sys.platform == "linux" else None
    with ProcessPoolExecutor(
        os.cpu_count(), mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield from pool.map(work, cells)
