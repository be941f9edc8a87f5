"""A grid of predicted memory over models, resolutions, batch sizes and axes: what "which method fits my GPU" looks up.

Each family of cells is traced at two or three resolutions and two batch sizes; the sizes between are filled in by
`TraceFamily` and replayed like a trace. Everything is predicted for the paper's card; kernels and workspaces of another
change it by up to 5 %, its capacity is what decides.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from methods import METHODS

from .config import CellConfig
from .predict.extrapolate import TraceFamily, UnlikeTraces
from .predict.predictor import trace_cell
from .predict.replay import replay
from .predict.trace import Trace
from .units import MIB

MODELS = ("vit_b", "vit_l")
"""The paper's two; `advise` answers for every other."""
RES = (224, 384, 512, 768, 1024)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
PATCH_SIZE = 16

_TRACED_RES = {"eager": (224, 512, 1024), "sdpa": (224, 1024)}
"""Explicit score matrices grow with the square of the patches; with fused attention all grows with the patches."""

_TRACED_BATCHES = (2, 16)

KERNELS = {
    "fp32, explicit attention": {"precision": "fp32", "attention": "eager"},
    "fp32, fused attention": {"precision": "fp32", "attention": "sdpa"},
    "bf16, fused attention": {"precision": "bf16", "attention": "sdpa"},
}
"""Choices of precision and attention, as people name them."""

NOTHING_TO_CHECKPOINT = ("linear", "fpt", "fptplus")
"""No gradient runs through the blocks of these."""


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """Memory of one method over the batch sizes."""

    method: str
    model: str
    res: int
    precision: str
    attention: str
    checkpointing: str
    reserved_mib: tuple[int, ...]
    """Of PyTorch's segments, at each of BATCHES; a process holds the card's CUDA context besides."""


def grid_families() -> list[CellConfig]:
    """One cell for each family: method, model and axes."""
    return [
        CellConfig(method=method, model=model, res=RES[0], checkpointing=checkpointing, **kernel)
        for model in MODELS
        for kernel in KERNELS.values()
        for method in METHODS
        for checkpointing in (("none",) if method in NOTHING_TO_CHECKPOINT else ("none", "block"))
    ]


def grid_rows(family: CellConfig) -> list[GridRow]:
    """Memory of a family at every resolution and batch size of the grid."""
    along_res = {batch: _along_res(family, batch) for batch in _TRACED_BATCHES}
    try:
        return [_row(family, res, _extrapolated(along_res, res)) for res in RES]
    except UnlikeTraces:  # along the batch size; then each of them is traced
        along_res |= {batch: _along_res(family, batch) for batch in BATCHES if batch not in along_res}
        return [_row(family, res, {batch: along_res[batch].at(_patches(res)) for batch in BATCHES}) for res in RES]


def _along_res(family: CellConfig, batch: int) -> TraceFamily:
    traced_res = _TRACED_RES[family.attention]
    traces = [trace_cell(replace(family, res=res, batch_size=batch)) for res in traced_res]
    return TraceFamily([_patches(res) for res in traced_res], traces)


def _extrapolated(along_res: dict[int, TraceFamily], res: int) -> dict[int, Trace]:
    """Traces at a resolution for every batch size, from those of some."""
    along_batch = TraceFamily(list(along_res), [family.at(_patches(res)) for family in along_res.values()])
    return {batch: along_batch.at(batch) for batch in BATCHES}


def _row(family: CellConfig, res: int, by_batch: dict[int, Trace]) -> GridRow:
    reserved = tuple(round(replay(trace).reserved_bytes / MIB) for trace in by_batch.values())
    axes = {name: getattr(family, name) for name in ("method", "model", "precision", "attention", "checkpointing")}
    return GridRow(**axes, res=res, reserved_mib=reserved)


def _patches(res: int) -> int:
    return (res // PATCH_SIZE) ** 2


_LABELS = ("method", "model", "res", "precision", "attention", "checkpointing")


def write_grid(path: Path, rows: list[GridRow]) -> None:
    """Keep the grid as a CSV file, one row a method, resolution and choice of axes."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_LABELS, *(f"reserved_mib_batch_{batch}" for batch in BATCHES)])
        writer.writerows([*(getattr(row, name) for name in _LABELS), *row.reserved_mib] for row in rows)


def read_grid(path: Path) -> Iterator[GridRow]:
    """The grid kept in a CSV file."""
    with path.open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            labels = {name: line[name] for name in _LABELS} | {"res": int(line["res"])}
            sizes = tuple(int(line[f"reserved_mib_batch_{batch}"]) for batch in BATCHES)
            yield GridRow(**labels, reserved_mib=sizes)
