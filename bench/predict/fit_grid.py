"""A grid of predicted memory over models, resolutions, batch sizes and axes, for "which method fits my GPU?".

Each cell's step runs on the emulated card. Everything is for the paper's card; kernels and workspaces of another card
change it by up to 5 %. The capacity of the card is what decides.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench.cards.gpus import Gpu, endless
from bench.cells.anatomy import Peak
from bench.cells.config import CellConfig
from bench.emulate.build import CannotEmulate
from bench.emulate.fork import on_card
from bench.emulate.requests import UnlikeSteps
from bench.trace.replay import replay
from bench.units import MIB
from fptplus import InvalidInput
from methods import METHODS

from .batch_sizes import peaks_of
from .emulated import StepFails, peak_of
from .prediction import PredictedBy
from .traced import trace_cell

MODELS = ("vit_b", "vit_l")
"""The paper's two models; `advise` answers for every other."""
RES = (224, 384, 512, 768, 1024)
BATCHES = (1, 2, 4, 8, 16, 32, 64)

KERNELS = {
    "fp32, explicit attention": {"precision": "fp32", "attention": "eager"},
    "fp32, fused attention": {"precision": "fp32", "attention": "sdpa"},
    "bf16, fused attention": {"precision": "bf16", "attention": "sdpa"},
}
"""Choices of precision and attention, by their usual names."""

NOTHING_TO_CHECKPOINT = ("linear", "fpt", "fptplus")
"""Methods whose gradient does not run through the transformer blocks."""


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """Memory of one method by batch size."""

    method: str
    model: str
    res: int
    precision: str
    attention: str
    checkpointing: str
    reserved_mib: tuple[int | None, ...]
    """Size of PyTorch's segments, at each of BATCHES; a process also holds the card's CUDA context. None if PyTorch
    fails in the step."""

    predicted_by: tuple[PredictedBy, ...] = ("emulated",) * len(BATCHES)
    """Engine of each prediction, at each of BATCHES: traced if PyTorch fails in the step."""


def grid_families() -> list[CellConfig]:
    """Return one cell for each family: method, model and axes."""
    return [
        CellConfig(method=method, model=model, res=RES[0], checkpointing=checkpointing, **kernel)
        for model in MODELS
        for kernel in KERNELS.values()
        for method in METHODS
        for checkpointing in (("none",) if method in NOTHING_TO_CHECKPOINT else ("none", "block"))
    ]


def grid_rows(family: CellConfig, gpu: Gpu) -> list[GridRow]:
    """Return a family's memory at every resolution and batch size, in a process that can fork others onto cards.

    It is traced, and marked so, where PyTorch fails in the step.
    """
    cells = [replace(family, res=res) for res in RES]
    try:
        peaks = on_card(endless(gpu), _peaks, cells)
    except (UnlikeSteps, StepFails, CannotEmulate):  # with all their steps, which takes longer
        peaks = [[_peak(replace(cell, batch_size=size), gpu) for size in BATCHES] for cell in cells]
    rows = [_row(cell, of_cell) for cell, of_cell in zip(cells, peaks, strict=True)]
    return [completed(row, gpu) for row in rows]  # last: after a trace, no process forked from here could start CUDA


def _peaks(cells: list[CellConfig]) -> list[list[Peak | None]]:
    """Return the peaks of each cell by batch size; they are checked at the first, since the others take like steps."""
    return [peaks_of(cell, BATCHES, is_checked=cell is cells[0]) for cell in cells]


def _peak(cell: CellConfig, gpu: Gpu) -> Peak | None:
    try:
        return on_card(endless(gpu), peak_of, cell)
    except StepFails:
        return None


def _row(cell: CellConfig, peaks: list[Peak | None]) -> GridRow:
    axes = {name: getattr(cell, name) for name in _LABELS}
    return GridRow(**axes, reserved_mib=tuple(peak and round(peak.reserved_bytes / MIB) for peak in peaks))


def completed(row: GridRow, gpu: Gpu) -> GridRow:
    """Return a row with traced memory on a card where PyTorch fails in the step, and marked so."""
    axes = {name: getattr(row, name) for name in _LABELS}

    def traced_mib(batch: int) -> int:
        return round(replay(trace_cell(CellConfig(**axes, batch_size=batch), gpu=gpu)).reserved_bytes / MIB)

    known_by_batch = zip(BATCHES, row.reserved_mib, strict=True)
    reserved = (traced_mib(batch) if known is None else known for batch, known in known_by_batch)
    engines: list[PredictedBy] = ["traced" if known is None else "emulated" for known in row.reserved_mib]
    return replace(row, reserved_mib=tuple(reserved), predicted_by=tuple(engines))


_LABELS = ("method", "model", "res", "precision", "attention", "checkpointing")


def write_grid(path: Path, rows: list[GridRow]) -> None:
    """Write the grid to a CSV file, one row per method, resolution and choice of axes.

    `predicted_by` is one word, or one word for each batch size if they differ.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_LABELS, *(f"reserved_mib_batch_{batch}" for batch in BATCHES), "predicted_by"])
        for row in rows:
            engines = row.predicted_by[:1] if len(set(row.predicted_by)) == 1 else row.predicted_by
            writer.writerow([*(getattr(row, name) for name in _LABELS), *row.reserved_mib, " ".join(engines)])


def read_grid(path: Path) -> Iterator[GridRow]:
    """Yield the rows of a grid in a CSV file.

    Raises:
        InvalidInput: if it does not say what predicted it, as files of earlier versions do not.
    """
    with path.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if not (engines := (line.get("predicted_by") or "").split()):
                raise InvalidInput(
                    f"{str(path)!r} must have the column predicted_by, it lacks it; predict it again with "
                    "`python -m bench reproduce --again`."
                )
            labels = {name: line[name] for name in _LABELS} | {"res": int(line["res"])}
            sizes = tuple(int(line[f"reserved_mib_batch_{batch}"]) for batch in BATCHES)
            yield GridRow(
                **labels,
                reserved_mib=sizes,
                predicted_by=tuple(engines * len(BATCHES) if len(engines) == 1 else engines),
            )
