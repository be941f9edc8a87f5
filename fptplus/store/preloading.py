"""Preloading (FPT+, Sec. III-F): run every image through the frozen large pre-trained model (LPM) once, and store the
keys and values of its important tokens.

reader threads: decode, resize ─ LPM on the device: keys, values, packed ─ writer thread: append to the store
                  (bounded look-ahead)                             (at most two batches under way)
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fptplus.data import ImageDataset
from fptplus.data.augment import normalize
from fptplus.data.greys import GreyScale
from fptplus.data.images import DECODING
from fptplus.errors import InvalidInput
from fptplus.network.frozen_backbone import FrozenBackbone
from fptplus.network.precision import Precision, autocast

from .decode import Decoded, decode_ahead
from .decode import to_square as to_square
from .feature_store import FeatureStore, StoreDtype
from .grey_survey import find_greys
from .manifest import MANIFEST, StoreManifest
from .source_files import refuse_changed
from .writer import AlreadyFinished, ShardWriter, merge_shards, settings_of_store, shard_of

Progress = Callable[[int, int], None]
"""Function called with the number of images this process has done, and its total."""

BATCHES_UNDER_WAY = 2


PIXELS_PER_PIXEL = 2
"""Pixels of a stored image, across and down, for one of the training's. With these a view is as sharp as if it had been
resampled once, from the original; with 1.1 it has 30 % less energy in its gradients (see `fptplus.data.augment`)."""

EARLIER_PIXELS_PER_PIXEL = 0.8**-0.5
"""The same in earlier versions: the smallest random crop had one pixel for each of the training's."""


def stored_image_res(train_res: int, out: Path | None = None) -> int:
    """Return the height and width in pixels at which images are stored.

    Args:
        train_res: height and width in pixels of the images to train on.
        out: folder of the store; what an earlier version has begun or finished there keeps that version's resolution.
    """
    earlier = 16 * math.ceil(train_res * EARLIER_PIXELS_PER_PIXEL / 16)
    begun = settings_of_store(out).get("image_res") if out is not None else None
    return earlier if begun == earlier else PIXELS_PER_PIXEL * train_res


def largest_train_res(manifest: StoreManifest) -> int:
    """Return how many pixels a side the images of a store are meant to be trained with (reverses stored_image_res)."""
    return int(manifest.image_res / (PIXELS_PER_PIXEL if manifest.sizes else EARLIER_PIXELS_PER_PIXEL))


def preload(
    dataset: ImageDataset,
    out: str | Path,
    *,
    image_res: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    backbone: FrozenBackbone | None = None,
    model: str | None = None,
    weights_sha256: str | None = None,
    res: int | None = None,
    store_dtype: StoreDtype = "bf16",
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    greys: GreyScale | None = None,
    skip_bad_images: bool = False,
    rank: int = 0,
    world_size: int = 1,
    on_progress: Progress = lambda done, total: None,
) -> FeatureStore | None:
    """Make a feature store, resume one that was interrupted, or open one that is finished.

    Args:
        dataset: images of any size; they are resized to squares without keeping their proportions (official code).
        out: the folder of the store.
        image_res: height and width in pixels of the stored side images (`stored_image_res`).
        mean, std: mean and standard deviation of the colour channels, in 0 to 1, for the LPM's input.
        backbone: the frozen LPM; None for a store of images only.
        model, weights_sha256: name and SHA-256 of the LPM, noted in the manifest.
        res: height and width in pixels of the LPM's input.
        store_dtype: dtype of the stored keys and values.
        batch_size: images per pass through the LPM; 1 needs the least memory.
        device, precision: device and precision of the LPM.
        greys: the rule for deep greys, see `find_greys`; by default that is called, and its notes are logged.
        skip_bad_images: leave out images that cannot be decoded, and list them in the manifest.
        rank, world_size: the shard of the store that this process makes.
        on_progress: called after each batch.

    Returns:
        The store; None if other processes have not finished their shards yet.

    Raises:
        InvalidInput: if an image cannot be decoded, features are not finite, the disk is full, or the folder holds
            something else or was made from files that have changed since.
    """
    out = Path(out)
    greys = _logged_greys(dataset, out) if greys is None else greys
    dataset = dataset.with_greys(greys)
    settings = StoreManifest(
        dataset=dataset.name,
        classes=dataset.classes,
        dataset_fingerprint=dataset.fingerprint(),
        mean=tuple(mean),
        std=tuple(std),
        image_res=image_res,
        greys=greys,
        decoding=DECODING,
        **(_of_features(backbone, model, weights_sha256, res, precision, store_dtype) if backbone else {}),
    )
    if (out / MANIFEST).exists():
        return _finished(out, settings, dataset)
    try:
        writer = ShardWriter(out, settings, shard_of(dataset.examples, rank, world_size), rank, world_size)
    except AlreadyFinished:  # since the line above
        return _finished(out, settings, dataset)
    try:
        refuse_changed(out, dataset, writer.examples[: writer.done], writer.begun_with)
        examples = writer.examples[writer.done :]
        images = decode_ahead(dataset, examples, image_res, settings.res, look_ahead=batch_size)
        features = backbone and FeatureMaker(backbone, settings, torch.device(device))
        _run(writer, _batches(images, batch_size, skip_bad_images), features, on_progress)
    finally:
        writer.close()
    return FeatureStore.open(out) if merge_shards(out, settings, dataset, world_size) else None


def _logged_greys(dataset: ImageDataset, out: Path) -> GreyScale:
    """Return the rule for deep greys, and log what is to be said about it."""
    survey = find_greys(dataset, out)
    for note in survey.notes:
        logging.getLogger(__name__).warning(note)
    return survey.greys


def _of_features(
    backbone: FrozenBackbone,
    model: str | None,
    weights_sha256: str | None,
    res: int | None,
    precision: Precision,
    store_dtype: StoreDtype,
) -> dict[str, Any]:
    """Return the fields of a manifest that describe the features."""
    if res not in (own := backbone.vit.patch_embed.img_size):
        raise InvalidInput(f"res must be the LPM's resolution {own[0]}, got {res}; make the LPM for that resolution.")
    attention = backbone.vit.blocks[0].attn
    return {
        "model": model,
        "weights_sha256": weights_sha256,
        "res": res,
        "precision": precision,
        "token_ratio": backbone.token_ratio,
        "layers": tuple(backbone.tapped_layers),
        "heads": attention.num_heads,
        "tokens": backbone.kept_tokens,
        "head_dim": attention.head_dim,
        "dtype": store_dtype,
    }


def _finished(out: Path, settings: StoreManifest, dataset: ImageDataset) -> FeatureStore:
    """The store that is there already, if it is the one asked for."""
    store = FeatureStore.open(out)
    for field, value in settings.settings().items():
        if (found := store.manifest.settings()[field]) != value:
            raise InvalidInput(
                f"{out} must be empty or a store with {field} {value}, it is one with {found}; choose another folder."
            )
    refuse_changed(out, dataset, dataset.examples, dict(store.manifest.sources))
    return store


@dataclass(frozen=True)
class _Batch:
    """Images to write together, and those skipped before them."""

    skipped: list[Decoded]

    decoded: list[Decoded]


def _batches(images: Iterator[Decoded], batch_size: int, skip_bad_images: bool) -> Iterator[_Batch]:
    """Yield readable images in order, in batches that end early before an unreadable one."""
    skipped, batch = [], []
    for image in images:
        if image.error is None:
            batch.append(image)
        if batch and (image.error is not None or len(batch) == batch_size):
            yield _Batch(skipped, batch)
            skipped, batch = [], []
        if image.error is not None:
            if not skip_bad_images:
                raise InvalidInput(image.error)
            skipped.append(image)
    if skipped or batch:
        yield _Batch(skipped, batch)


class FeatureMaker:
    """Function that turns images into rows of a store on a device."""

    def __init__(self, backbone: FrozenBackbone, settings: StoreManifest, device: torch.device) -> None:
        self.backbone, self.device, self.layout = backbone.to(device), device, settings.layout
        self.precision, self._mean, self._std = settings.precision, settings.mean, settings.std

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows (B, row_bytes) in uint8, and a scalar: whether all features are finite; both on the device.

        Args:
            images: images (B, 3, res, res) in uint8, on the CPU.
        """
        if self.device.type == "cuda":
            images = images.pin_memory()
        images = images.to(self.device, non_blocking=True).float().div_(255)
        with autocast(self.precision, self.device.type):
            keys, values, *_ = self.backbone(normalize(images, self._mean, self._std))
        return self.layout.pack(keys, values), keys.isfinite().all() & values.isfinite().all()


def _run(
    writer: ShardWriter, batches: Iterator[_Batch], make_features: FeatureMaker | None, on_progress: Progress
) -> None:
    """Compute one batch after another while another thread writes those that are done."""
    total, under_way = len(writer.examples), deque[Future]()
    on_progress(writer.done, total)

    def settle(limit: int) -> None:
        while len(under_way) > limit:
            on_progress(under_way.popleft().result(), total)

    with ThreadPoolExecutor(1, thread_name_prefix="write") as pool:
        last = None
        try:
            for batch in batches:
                made = None
                if make_features and batch.decoded:
                    made = make_features(torch.stack([image.image for image in batch.decoded]))
                last = pool.submit(_write, writer, batch, made, after=last)
                under_way.append(last)
                settle(BATCHES_UNDER_WAY)
        finally:
            settle(0)  # even if an image could not be read: those before it are kept


def _write(writer: ShardWriter, batch: _Batch, made: tuple[Tensor, Tensor] | None, after: Future | None) -> int:
    """Append a batch, and return the images done by then. It fails if the batch before it did: no gap is ever left."""
    if after is not None:
        after.result()
    for image in batch.skipped:
        writer.skip(image.error, image.source)
    if not batch.decoded:
        return writer.done
    content = {"images": torch.stack([image.side_image for image in batch.decoded]).flatten(1).numpy()}
    if made is not None:
        rows, finite = made
        if not finite:
            names = ", ".join(image.name for image in batch.decoded)
            raise InvalidInput(
                f"features must be finite, those of {names} are not; check the weights, or use --precision fp32."
            )
        content["features"] = rows.cpu().numpy()
    writer.write(content, [image.size for image in batch.decoded], [image.source for image in batch.decoded])
    return writer.done
