"""Throughputs that others measured (`throughput.csv`), and the steps behind them on emulated cards."""

import csv
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models import create_model
from torch import nn

from bench.cards.gpus import GPUS, endless
from bench.emulate.pool import Job
from bench.predict.processes import shared_pool
from bench.timing.operations import StepWork
from bench.timing.recording import record_step, timed

from .older import with_plain_attention
from .scripts import on_device

_TABLE = Path(__file__).with_name("throughput.csv")


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """One row of `throughput.csv`."""

    source: str
    """File in timm's repository (github.com/huggingface/pytorch-image-models)."""

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
    def architecture(self) -> str:
        """Size, patch and resolution: what models that differ only in their training share."""
        return self.model.removeprefix("vit_").removeprefix("deit_").replace("clip_", "")

    @property
    def is_fitted(self) -> bool:
        """Whether the row is in the half that constants are fitted on: by a hash of its architecture.

        Models that are the same to a card, such as DeiT and ViT, are thereby on the same side.
        """
        return hashlib.sha256(self.architecture.encode()).digest()[0] % 2 == 0


def published_throughputs() -> list[Throughput]:
    """Return all rows of the table."""
    kinds = {field.name: field.type for field in fields(Throughput)}
    with _TABLE.open(newline="", encoding="utf-8") as file:
        return [Throughput(**{name: kinds[name](text) for name, text in row.items()}) for row in csv.DictReader(file)]


def recorded(rows: list[Throughput]) -> Iterator[StepWork]:
    """Yield what a step of each row does, on emulated cards.

    Raises:
        CannotEmulate: if the emulated device does not run here.
    """
    jobs = [Job(gpu=endless(GPUS[row.gpu]), arguments=(row,)) for row in rows]
    for answer in shared_pool().map(record_row, jobs):
        if isinstance(answer, Exception):
            raise answer
        yield answer


def record_row(row: Throughput) -> StepWork:
    """Return what a step of a row does on this process's emulated card (timm's benchmark.py).

    Rows before PyTorch 2 have timm's attention of that time, with explicit score matrices.
    """
    sized = "dinov2" in row.model or "siglip" in row.model
    model = on_device(partial(create_model, row.model, **({"img_size": row.res} if sized else {})))
    if "eager" in row.precision:
        with_plain_attention(model)
    images = torch.empty(row.batch_size, 3, row.res, row.res, device="cuda")
    step = _training(model, images) if row.mode == "train" else _inference(model, images)
    step()
    return record_step(model, step, [images], host_time_s=timed(step))


def _training(model: nn.Module, images: torch.Tensor) -> Callable[..., None]:
    """Return timm 0.6.7's step: SGD with Nesterov momentum, backward pass inside autocast, gradients kept."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-4, momentum=0.9, nesterov=True, foreach=False)
    labels = torch.zeros(len(images), dtype=torch.long, device="cuda")

    def step(on_phase: Callable[[str], None] = lambda phase: None) -> None:
        optimizer.zero_grad(set_to_none=False)
        on_phase("forward")
        with torch.autocast("cuda", torch.float16):
            loss = F.cross_entropy(model(images), labels)
            on_phase("backward")
            loss.backward()
        on_phase("optimizer")
        optimizer.step()

    return step


def _inference(model: nn.Module, images: torch.Tensor) -> Callable[..., None]:
    model.eval()

    def step(on_phase: Callable[[str], None] = lambda phase: None) -> None:
        on_phase("forward")
        with torch.no_grad(), torch.autocast("cuda", torch.float16):
            model(images)

    return step
