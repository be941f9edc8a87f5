"""The training loop of the official code, written plainly, for a Python with PyTorch 2.0.0 and little else.

    python -m bench.paper.stack.loop < job.json > memory.json

Memory depends on the order in which the batches come and go:

    for images, keys, values, targets in loader:   the names take the new batch, on the CPU: the old features are freed
        keys, values = moved to the device
        logits, loss                               the last step's gradients still exist
        zero_grad, backward, clip, step
    evaluate                                       in a function with its own names: the last training batch's
                                                   features stay, next to those of every validation batch

So an evaluation can add one stored block, the keys of a batch, to what training had reserved before it.

Features are stored image by image, (layers, heads, n, head_dim). The model takes them with layers first, as views,
which a product over all layers copies.
"""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import get_context

import torch
from torch import Tensor

from fptplus.reference import PlainFPT, plain_step

DEVICE = "cuda"


@dataclass(frozen=True)
class Cell:
    """A model to train."""

    model: dict
    """Arguments of PlainFPT."""

    num_tokens: int
    """Number of stored tokens of each image, layer and head."""


@dataclass(frozen=True)
class StackJob:
    """How every cell is trained."""

    batch_size: int
    train_images: int
    validation_images: int
    epochs: int


@dataclass(frozen=True)
class Memory:
    """Peaks of one training by PyTorch's own counters."""

    training_reserved_bytes: int
    """Peak reserved memory in the first epoch, before any evaluation."""

    reserved_bytes: int
    allocated_bytes: int
    """Peak allocated memory of the whole training."""

    block_bytes: int
    """Size of the keys of one batch."""


def main() -> None:
    """Train the cells on standard input, each in a fresh process; print the versions and the memory of each."""
    asked = json.load(sys.stdin)
    job, cells = StackJob(**asked["job"]), [Cell(**cell) for cell in asked["cells"]]
    with get_context("fork").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
        memory = pool.starmap(train, [(job, cell) for cell in cells], chunksize=1)
    versions = {"torch_version": torch.__version__, "cuda_version": torch.version.cuda}
    json.dump({**versions, "memory": [asdict(one) for one in memory]}, sys.stdout)


def train(job: StackJob, cell: Cell) -> Memory:
    """Train one cell, and return its memory."""
    model = PlainFPT(**cell.model, fuses_at_once=True).to(DEVICE).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    whole_batches = job.train_images - job.train_images % job.batch_size
    training_reserved_bytes = None
    for _ in range(job.epochs):
        for images, keys, values, targets in batches(cell, whole_batches, job.batch_size):
            keys, values = keys.to(DEVICE).transpose(0, 1), values.to(DEVICE).transpose(0, 1)
            images, targets = images.to(DEVICE), targets.to(DEVICE)
            plain_step(model, optimizer, images, (keys, values), targets).item()
        training_reserved_bytes = training_reserved_bytes or torch.cuda.max_memory_reserved()
        evaluate(model, batches(cell, job.validation_images, job.batch_size))
    return Memory(
        training_reserved_bytes=training_reserved_bytes,
        reserved_bytes=torch.cuda.max_memory_reserved(),
        allocated_bytes=torch.cuda.max_memory_allocated(),
        block_bytes=keys.numel() * keys.element_size(),
    )


@torch.no_grad()
def evaluate(model: PlainFPT, loader: Iterator[tuple[Tensor, ...]]) -> list[Tensor]:
    """Return the logits of every batch, on the CPU."""
    model.eval()
    logits = []
    for images, keys, values, _ in loader:
        keys, values = keys.to(DEVICE).transpose(0, 1), values.to(DEVICE).transpose(0, 1)
        logits.append(model(images.to(DEVICE), (keys, values)).cpu())
    model.train()
    return logits


def batches(cell: Cell, num_images: int, batch_size: int) -> Iterator[tuple[Tensor, ...]]:
    """Yield side images, stored keys and values, and targets on the CPU; their values do not affect memory."""
    layers, heads, lpm_dim = (cell.model[name] for name in ("num_layers", "num_heads", "lpm_dim"))
    stored = layers, heads, cell.num_tokens, lpm_dim // heads
    for start in range(0, num_images, batch_size):
        size = min(batch_size, num_images - start)
        images = torch.empty(size, 3, cell.model["res"], cell.model["res"])
        yield images, torch.empty(size, *stored), torch.empty(size, *stored), torch.zeros(size, dtype=torch.long)


if __name__ == "__main__":
    main()
