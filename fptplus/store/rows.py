"""Rows of a feature store on the training device: read ahead by a thread, or all kept there.

A row is one contiguous piece of the store's files, megabytes for features. Its bytes go to the device as stored, and
are unpacked there.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from .feature_store import FeatureStore

BATCHES_AHEAD = 2
"""Number of batches that are read before they are asked for."""

ROWS_AT_ONCE = 64
"""Number of rows read at once while a store is brought to the device."""

STEP_BYTES = 3 * 2**30
"""Memory left free for the step next to a store on the device. The largest step of FPT and FPT+ predicted at 512 px
and batch 16, FPT on ViT-L with explicit attention in fp32, needs 2.5 GiB; fused and in bf16 it needs 1.1 GiB."""

log = logging.getLogger(__name__)

Item, Result = TypeVar("Item"), TypeVar("Result")


@dataclass(frozen=True)
class Rows:
    """What a store holds for a batch, as it is stored."""

    images: Tensor
    """Side images (B, 3, image_res, image_res), uint8."""

    features: Tensor | None
    """Features (B, row_bytes), uint8, for the store's layout to unpack; None if they are not wanted."""

    def to(self, device: str) -> "Rows":
        """Return the same on a device; a copy from pinned memory is asynchronous."""
        return self._mapped(lambda part: part.to(device, non_blocking=True))

    def pinned(self) -> "Rows":
        """Return a copy in pinned memory."""
        return self._mapped(Tensor.pin_memory)

    def __getitem__(self, index: Tensor) -> "Rows":
        return self._mapped(lambda part: part[index])

    def room_for(self, count: int, device: str) -> "Rows":
        """Return `count` rows of this kind on a device, not filled yet."""
        return self._mapped(lambda part: torch.empty(count, *part.shape[1:], dtype=part.dtype, device=device))

    def put(self, start: int, rows: "Rows") -> None:
        """Copy rows into these, from row `start` on."""
        for own, part in ((self.images, rows.images), (self.features, rows.features)):
            if own is not None:
                own[start : start + len(part)].copy_(part, non_blocking=True)

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "Rows":
        return Rows(*(part if part is None else function(part) for part in (self.images, self.features)))


class RowReader:
    """Reader of a store's rows to a device.

    Args:
        store: the store to read from.
        with_features: whether features are wanted in addition to the images.
        device: the device to read to.
        keep: rows to bring to the device once and for all, or None to read each shortly before its batch.
        features_in_place: whether features should be in the computer's memory by then, but not among the rows.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        with_features: bool,
        device: str,
        keep: np.ndarray | None = None,
        features_in_place: bool = False,
    ) -> None:
        self.store, self.with_features, self.device = store, with_features, device
        self.features_in_place = features_in_place
        self._kept = None if keep is None else self._brought(keep)
        if keep is not None:
            self._place = torch.full((len(store),), -1)
            self._place[torch.from_numpy(keep)] = torch.arange(len(keep))

    def batches(self, chosen: Iterable[np.ndarray]) -> Iterator[Rows]:
        """Yield the rows of each batch in turn."""
        if self._kept is None:
            for rows in read_ahead(self._read, chosen):
                yield rows.to(self.device)
        else:
            for rows in chosen:
                yield self._kept[self._place[torch.from_numpy(rows)].to(self.device)]

    def _read(self, rows: np.ndarray) -> Rows:
        """Read rows into the computer's memory, pinned if they go to a CUDA device."""
        if self.features_in_place:
            self.store.bring_features(rows)
        read = Rows(self.store.images(rows), self.store.feature_rows(rows) if self.with_features else None)
        return read.pinned() if torch.device(self.device).type == "cuda" else read

    def _brought(self, rows: np.ndarray) -> Rows:
        """Bring all these rows to the device, in large pieces."""
        pieces = read_ahead(self._read, np.array_split(rows, -(-len(rows) // ROWS_AT_ONCE)))
        kept: Rows | None = None
        done = 0
        for piece in pieces:
            kept = kept or piece.room_for(len(rows), self.device)
            kept.put(done, piece)
            done += len(piece.images)
        return kept


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield read(item) for each item in turn, computed in a thread before it is asked for."""
    with ThreadPoolExecutor(1, thread_name_prefix="store") as pool:
        pending = deque()
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) > BATCHES_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def fits_beside_the_step(store_bytes: int, free_bytes: int, step_bytes: int = STEP_BYTES) -> bool:
    """Return, and log, whether a store can stay on a device and leave room for the training step."""
    fits = store_bytes + step_bytes <= free_bytes
    log.info(
        "%s: %.1f GiB of it and %.1f GiB for the training step, %.1f GiB are free",
        "the store stays on the device" if fits else "the store is read again in every epoch",
        *(size / 2**30 for size in (store_bytes, step_bytes, free_bytes)),
    )
    return fits
