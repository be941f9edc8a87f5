"""Batches for the training step from a feature store: random rows, with images augmented on the device and features.

Every random choice depends only on the seed, the epoch and the step, and is drawn for the joint batch of all processes.
So interrupted training resumes as if it had never stopped, and several processes see what a single one would.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import psutil
import torch
from torch import Tensor

from fptplus import cpu_kernels
from fptplus.data.augment import (
    AUGMENTATIONS,
    AugmentationName,
    Views,
    draw_views,
    filter_of_storing,
    normalize,
    plain_views,
    render,
)
from fptplus.data.dataset import SPLITS, Split
from fptplus.distributed import Processes
from fptplus.errors import InvalidInput
from fptplus.network.features import Features, Inputs
from fptplus.store.feature_store import FeatureStore
from fptplus.store.rows import RowReader, fits_beside_the_step

ALONE = Processes()


@dataclass(frozen=True)
class Batch:
    """What one training step takes."""

    inputs: Inputs
    """Normalised images (B, 3, res, res), and for FPT and FPT+ their features as stored: the batch's, or those of
    the whole store in place, with the indices of the batch's rows."""

    targets: Tensor
    """Class indices (B,)."""


@dataclass(frozen=True, kw_only=True)
class Feed:
    """Gives the batches of one split in the form that the model of one method takes."""

    store: FeatureStore
    split: Split
    batch_size: int
    """Images per step, over all processes."""

    res: int
    """Height and width in pixels of the model's input images."""

    reads_features: bool
    """Whether the model takes features alongside the images."""

    device: str = "cpu"
    processes: Processes = ALONE
    seed: int = 0
    augmentation: AugmentationName | None = None
    """How images are augmented for training: official crops the original, square what it was squeezed to. Default:
    official, where the store knows the originals' sizes; stores of earlier versions do not."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InvalidInput(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}.")
        if self.batch_size < 1:
            raise InvalidInput(f"batch-size must be at least 1, got {self.batch_size}.")
        if self.batch_size % self.processes.world_size:
            raise InvalidInput(
                f"batch-size must be a multiple of the {self.processes.world_size} processes, got {self.batch_size}."
            )
        if self.reads_features and not self.store.has_features:
            raise InvalidInput("store must hold features for FPT and FPT+, it holds images only; preload with them.")
        if self.augmentation == "official" and self.store.sizes is None:
            raise InvalidInput(
                "augmentation must be square for a store of an earlier version, which does not tell the sizes of the "
                "original images, got official; preload again, or train with square."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of full batches per epoch; the images left over are dropped for this epoch (official code: drop last).

        Raises:
            InvalidInput: if there is no full batch.
        """
        count = len(self.store.rows(self.split))
        if count < self.batch_size:
            raise InvalidInput(
                f"batch-size must be at most the {count} images of {self.split}, got {self.batch_size}; "
                "use a smaller one."
            )
        return count // self.batch_size

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield this process's share of each batch of one epoch, in random order and randomly augmented."""
        rows, share = self.store.rows(self.split), self.processes.share(self.batch_size)
        known = self.store.sizes is not None
        augmentation = AUGMENTATIONS[self.augmentation or ("official" if known else "square")]
        order = torch.randperm(len(rows), generator=self._generator(epoch)).numpy()
        whole = order[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)
        aspects = self.store.sizes[:, 0] / self.store.sizes[:, 1] if known else None
        views = (
            draw_views(
                augmentation,
                self.batch_size,
                self._generator(epoch, step),
                aspects[torch.from_numpy(rows[chosen])] if known else None,
            )[share]
            for step, chosen in enumerate(whole)
        )
        yield from self._batches([rows[chosen][share] for chosen in whole], views)

    def in_order(self) -> Iterator[Batch]:
        """Yield this process's share of all images once, not augmented, in the store's order."""
        rows = self.store.rows(self.split)
        rows = rows[self.processes.share(len(rows))]
        chosen = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        yield from self._batches(chosen, (plain_views(len(some)) for some in chosen))

    def _batches(self, chosen: list[np.ndarray], views: Iterable[Views]) -> Iterator[Batch]:
        manifest = self.store.manifest
        for numbers, rows, view in zip(chosen, self._reader.batches(chosen), views, strict=True):
            if self.store.sizes is not None:
                sizes = self.store.sizes[torch.from_numpy(numbers)]
                view = replace(view, filtered=filter_of_storing(sizes, manifest.image_res))
            images = render(rows.images, view, self.res)
            inputs: Inputs = (normalize(images, manifest.mean, manifest.std),)
            if self._in_place is not None:
                inputs += (self._in_place._replace(rows=torch.from_numpy(numbers)),)
            elif rows.features is not None:
                inputs += (self.store.layout.unpack(rows.features).by_layer(),)
            yield Batch(inputs, self.store.labels[torch.from_numpy(numbers)].to(self.device))

    @cached_property
    def _reader(self) -> RowReader:
        """Reader of the store; it keeps this split on a CUDA device if there is room."""
        keep = None
        if torch.device(self.device).type == "cuda":
            rows = self.store.rows(self.split)
            row_bytes = 3 * self.store.manifest.image_res**2
            row_bytes += self.store.layout.row_bytes if self.reads_features else 0
            free_bytes, _ = torch.cuda.mem_get_info(self.device)
            keep = rows if fits_beside_the_step(len(rows) * row_bytes, free_bytes) else None
        in_place = self._in_place is not None
        return RowReader(
            self.store,
            with_features=self.reads_features and not in_place,
            device=self.device,
            keep=keep,
            features_in_place=in_place,
        )

    @cached_property
    def _in_place(self) -> Features | None:
        """Features of the whole store in place, for a CPU whose memory has room for them.

        A CPU kernel reads them from there; copying a batch's features would take as long as reading them twice.
        """
        if self.device != "cpu" or not self.reads_features or not cpu_kernels.can_run_on(self.store.labels):
            return None
        features = self.store.features_in_place()
        fits = len(self.store) * self.store.layout.row_bytes <= psutil.virtual_memory().available / 2
        return features.by_layer() if features is not None and fits else None

    def _generator(self, *position: int) -> torch.Generator:
        """Return a random generator for one point in the training."""
        return torch.Generator().manual_seed(seed_at(self.seed, *position))


def seed_at(seed: int, *position: int) -> int:
    """Return a seed for one point in the training, different from that of any other point."""
    return int(np.random.SeedSequence([seed, len(position), *position]).generate_state(1, np.uint64)[0] >> 1)
