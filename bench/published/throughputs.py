"""Throughputs that others measured (`throughput.csv`), and the steps behind them on emulated cards."""

import csv
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models import create_model

from bench.timing.operations import Operation
from bench.timing.recording import OperationRecorder

from .older import with_plain_attention
from .scripts import on_device

_TABLE = Path(__file__).with_name("throughput.csv")


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """One row of `throughput.csv`."""

    source: str
    """File in the repository of timm (github.com/huggingface/pytorch-image-models)."""

    gpu: str
    """Name of the card in the catalogue."""

    torch: str
    mode: str
    """`train` or `infer`."""

    precision: str
    model: str
    res: int
    batch_size: int
    throughput_img_s: float
    step_time_ms: float

    @property
    def is_fused(self) -> bool:
        """Whether attention is one kernel."""
        return "fused" in self.precision


def published_throughputs() -> list[Throughput]:
    """Return all rows of the table."""
    kinds = {field.name: field.type for field in fields(Throughput)}
    with _TABLE.open(newline="", encoding="utf-8") as file:
        return [Throughput(**{k: kinds[k](v) for k, v in row.items()}) for row in csv.DictReader(file)]


def record_row(row: Throughput) -> list[Operation]:
    """Return what a step of a row does on this process's emulated card (timm's benchmark.py)."""
    options = {"img_size": row.res} if "dinov2" in row.model or "siglip" in row.model else {}
    model = on_device(partial(create_model, row.model, **options))
    if not row.is_fused:
        with_plain_attention(model)
    images = torch.empty(row.batch_size, 3, row.res, row.res, device="cuda")
    step = _training(model, images) if row.mode == "train" else _inference(model, images)
    step()
    with OperationRecorder(model) as recorder:
        step()
    return recorder.operations


def _training(model: torch.nn.Module, images: torch.Tensor):
    """SGD with Nesterov momentum, the backward pass inside autocast, gradients kept (timm 0.6.7, PyTorch 1.12)."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-4, momentum=0.9, nesterov=True, foreach=False)
    labels = torch.zeros(len(images), dtype=torch.long, device="cuda")

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cuda", torch.float16):
            F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def _inference(model: torch.nn.Module, images: torch.Tensor):
    model.eval()

    def step() -> None:
        with torch.no_grad(), torch.autocast("cuda", torch.float16):
            model(images)

    return step
