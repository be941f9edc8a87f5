"""Batches from disk, for the second throughput figure: what a step takes when its data has to come from somewhere.

Anything that yields such batches can be timed; here it is memory-mapped files of a cell's example inputs, so that no
data set is needed. The files are as large as one batch and stay in the page cache: reading, collating and copying to
the device are measured, decoding and a cold disk are not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from methods.method import ExampleInputs, batch_axes

Batch = tuple[tuple[Tensor, ...], Tensor]
"""Inputs of the model, and (B,) class indices."""


class Batches(Protocol):
    """One epoch of batches, as often as it is asked for."""

    def __iter__(self) -> Iterator[Batch]: ...


class MappedExamples(Dataset):
    """Example inputs of a cell, one file a tensor and image; image i is read again at i + number stored.

    Args:
        folder: for the files.
        example_inputs: makes a batch.
        num_stored: images on disk.
        num_images: that an epoch has.
        num_classes: of the targets.
    """

    def __init__(
        self, folder: Path, example_inputs: ExampleInputs, *, num_stored: int, num_images: int, num_classes: int
    ) -> None:
        self.batch_axes = batch_axes(example_inputs)
        self._num_images, self._num_classes = num_images, num_classes
        self._shapes, self._paths, self._dtypes = [], [], []
        for number, (tensor, axis) in enumerate(zip(example_inputs(num_stored), self.batch_axes, strict=True)):
            images = tensor.movedim(axis, 0).contiguous()
            self._shapes.append(images.shape)
            self._dtypes.append(images.dtype)
            self._paths.append(folder / f"inputs_{number}.bin")
            images.view(torch.uint8).numpy().tofile(self._paths[-1])

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, ...], int]:
        stored = [
            torch.from_file(str(path), size=shape.numel(), dtype=dtype).view(shape)
            for path, shape, dtype in zip(self._paths, self._shapes, self._dtypes, strict=True)
        ]
        return tuple(images[index % len(images)] for images in stored), index % self._num_classes

    def collate(self, samples: list[tuple[tuple[Tensor, ...], int]]) -> Batch:
        """Images into a batch, each tensor along the axis where its model wants it."""
        columns = zip(*(tensors for tensors, _ in samples), strict=True)
        inputs = tuple(torch.stack(column, axis) for column, axis in zip(columns, self.batch_axes, strict=True))
        return inputs, torch.tensor([target for _, target in samples])


def mapped_batches(examples: MappedExamples, batch_size: int, device: str, num_workers: int) -> Batches:
    """The examples in batches, incomplete ones dropped, read by worker processes and pinned for a CUDA device."""
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
    """Batches on a device without end, epoch after epoch; copies from pinned memory do not wait."""
    while True:
        for inputs, targets in batches:
            moved = tuple(tensor.to(device, non_blocking=True) for tensor in inputs)
            yield moved, targets.to(device, non_blocking=True)
