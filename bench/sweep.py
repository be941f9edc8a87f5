"""Run the cells of a sweep one after another, each record on disk before the next cell begins."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from methods import create_backbone

from .config import CellConfig, Setting
from .harness import run_cell
from .measure import TimingBudget
from .record import Record
from .results_store import ResultsStore


@dataclass(frozen=True)
class Progress:
    """What a sweep tells as it goes."""

    begin: Callable[[CellConfig], None]
    end: Callable[[Record], None]


def run_sweep(cells: list[CellConfig], store: ResultsStore, progress: Progress, budget: TimingBudget) -> list[Record]:
    """Run every cell, or take its record where it has been measured into this folder before.

    Returns:
        The records in the order of the cells.
    """
    records = []
    try:
        for cell in cells:
            progress.begin(cell)
            record = store.find(cell.cell_id)
            if record is None or not record.is_measured:
                record = run_cell(cell, budget)
                store.write(record)
            records.append(record)
            progress.end(record)
    finally:
        store.write_csv()
    return records


def checked_cells(config: Setting) -> list[CellConfig]:
    """The cells that are asked about, each model once built on meta tensors.

    Raises:
        InvalidInput: if a value is out of range, or a model, its resolution or its checkpoint is not what it must be.
    """
    cells = config.cells()
    for model, res, weights in dict.fromkeys((cell.model, cell.res, cell.weights) for cell in cells):
        with torch.device("meta"):
            create_backbone(model, res, config.num_classes, weights=weights)
    return cells
