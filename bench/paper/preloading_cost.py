"""What the preloading pass of FPT and FPT+ costs: memory, multiply-accumulates (MACs), and disk for the features."""

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from bench.cells.building import build_on
from bench.cells.config import CellConfig
from bench.cells.grid import preloading_of
from bench.predict.prediction import PredictedBy, Prediction
from bench.predict.predictor import predict_all
from fptplus import InvalidInput

from .settings import SETTINGS, paper_cell

FEATURE_BYTES = 4
"""Size of a number in a feature file: keys and values are stored in fp32 (official code)."""


@dataclass(frozen=True, kw_only=True)
class PreloadingCost:
    """The preloading pass of one method in one setting, one image at a time."""

    method: str
    model: str
    res: int
    precision: str
    attention: str
    process_bytes: int
    """Memory of the process in bytes, predicted for `gpu`."""

    disk_bytes_per_image: int
    """Size of the keys and values of the important tokens of the tapped layers, from their shapes."""

    gpu: str
    """Name of the card."""

    predicted_by: PredictedBy


def preloading_cells() -> list[CellConfig]:
    """Return the passes that the findings cover; checkpointing and the optimizer do not affect them."""
    settings = ("the paper's setting", "fused attention", "bf16", "fused attention, bf16")
    sizes = (("vit_b", 512), ("vit_b", 2048), ("vit_l", 512), ("vit_l", 640))
    return [
        paper_cell(method, model, res, **SETTINGS[setting])
        for model, res in sizes
        for method in ("fpt", "fptplus")
        for setting in settings
    ]


def predict_preloading(cells: list[CellConfig]) -> Iterator[PreloadingCost]:
    """Predict the passes of the given cells."""
    for cell, prediction in zip(
        cells, predict_all(replace(preloading_of(cell), batch_size=1) for cell in cells), strict=True
    ):
        if isinstance(prediction, Exception):
            raise prediction
        yield _preloading(cell, prediction)


def _preloading(cell: CellConfig, prediction: Prediction) -> PreloadingCost:
    tuning, _ = build_on("meta", cell)
    with torch.device("meta"):
        _, features = tuning.example_inputs(1)
    return PreloadingCost(
        method=cell.method,
        model=cell.model,
        res=cell.res,
        precision=cell.precision,
        attention=cell.attention,
        process_bytes=prediction.process_bytes,
        disk_bytes_per_image=FEATURE_BYTES * (features.keys.numel() + features.values.numel()),
        gpu=cell.gpu,
        predicted_by=prediction.by,
    )


def write_preloading(path: Path, passes: list[PreloadingCost]) -> None:
    """Write predictions to a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(PreloadingCost)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(one) for one in passes)


def read_preloading(path: Path) -> list[PreloadingCost]:
    """Return the predictions in a CSV file.

    Raises:
        InvalidInput: if it lacks a column, as files of earlier versions do.
    """
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [field.name for field in fields(PreloadingCost)]
    if missing := [name for name in names if rows and name not in rows[0]]:
        raise InvalidInput(
            f"{str(path)!r} must have the columns {', '.join(names)}, it lacks {', '.join(missing)}; predict it again "
            "with `python -m bench reproduce --again`."
        )
    numbers = ("res", "process_bytes", "disk_bytes_per_image")
    return [PreloadingCost(**row | {name: int(row[name]) for name in numbers}) for row in rows]
