"""Batches from disk, for the second throughput figure: the time of a step whose data has to be loaded.

Anything that yields such batches can be timed. Here the source is memory-mapped files of a cell's example inputs, so
no data set is needed. The files are as large as one batch and stay in the page cache: reading, collating and copying
to the device are measured, decoding and a cold disk are not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import DataLoader, Dataset

from fptplus.network.features import Inputs, map_tensors
from fptplus.training.fine_tuning import ExampleInputs, batch_axes

Batch = tuple[Inputs, Tensor]
"""Inputs of the model, and (B,) class indices."""


class Batches(Protocol):
    """One epoch of batches, which can be iterated over repeatedly."""

    def __iter__(self) -> Iterator[Batch]: ...


class MappedExamples(Dataset):
    """Example inputs of a cell, one file per tensor and image; image i is read again at i + number stored.

    Args:
        folder: folder for the files.
        example_inputs: makes a batch.
        num_stored: number of images on disk.
        num_images: number of images in an epoch.
        num_classes: number of classes of the targets.
    """

    def __init__(
        self, folder: Path, example_inputs: ExampleInputs, *, num_stored: int, num_images: int, num_classes: int
    ) -> None:
        self.batch_axes = batch_axes(example_inputs)
        self._num_images, self._num_classes = num_images, num_classes
        tensors, self._structure = tree_flatten(example_inputs(num_stored))
        self._files = [
            None if tensor is None else _StoredTensor.write(folder / f"inputs_{number}.bin", tensor.movedim(axis, 0))
            for number, (tensor, axis) in enumerate(zip(tensors, self.batch_axes, strict=True))
        ]

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> tuple[list[Tensor | None], int]:
        return [file and file.image(index) for file in self._files], index % self._num_classes

    def collate(self, samples: list[tuple[list[Tensor | None], int]]) -> Batch:
        """Collate images into a batch, each tensor along the axis that its model expects."""
        columns = zip(*(tensors for tensors, _ in samples), strict=True)
        stacked = [
            None if axis is None else torch.stack(column, axis)
            for column, axis in zip(columns, self.batch_axes, strict=True)
        ]
        return tree_unflatten(stacked, self._structure), torch.tensor([target for _, target in samples])


@dataclass(frozen=True)
class _StoredTensor:
    """A tensor of shape (images, ...) in a file."""

    path: Path
    shape: torch.Size
    dtype: torch.dtype

    @classmethod
    def write(cls, path: Path, images: Tensor) -> Self:
        images = images.contiguous()
        images.view(torch.uint8).numpy().tofile(path)
        return cls(path, images.shape, images.dtype)

    def image(self, index: int) -> Tensor:
        """Return one image's part, mapped into memory."""
        stored = torch.from_file(str(self.path), size=self.shape.numel(), dtype=self.dtype).view(self.shape)
        return stored[index % len(stored)]


def mapped_batches(examples: MappedExamples, batch_size: int, device: str, num_workers: int) -> Batches:
    """Return the examples in batches, dropping incomplete ones; workers read them, and pin them for a CUDA device."""
    return DataLoader(
        examples,
        batch_size,
        drop_last=True,
        collate_fn=examples.collate,
        num_workers=num_workers,
        pin_memory=device == "cuda",
        persistent_workers=num_workers > 0,
    )


def on_device(batches: Batches, device: str) -> Iterator[Batch]:
    """Yield batches on a device endlessly, epoch after epoch; copies from pinned memory do not wait."""
    while True:
        for inputs, targets in batches:
            moved = map_tensors(lambda tensor: tensor.to(device, non_blocking=True), inputs)
            yield moved, targets.to(device, non_blocking=True)
