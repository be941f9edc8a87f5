"""Random images and features with a real task's shapes, on disk, for the benchmarks of feeding."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fptplus import FPTConfig
from fptplus.data.dataset import Example, ImageDataset
from fptplus.network.selection import num_important_tokens
from fptplus.store.feature_store import FeatureStore
from fptplus.store.layout import RowLayout, StoreDtype
from fptplus.store.manifest import StoreManifest
from fptplus.store.preloading import stored_image_res
from fptplus.store.writer import ShardWriter, merge_shards

LPM_DIM, LPM_HEADS, LPM_DEPTH, PATCH = 768, 12, 12, 16
"""Dimensions of ViT-B, the large pre-trained model (LPM)."""

CLASSES = ("0", "1", "2", "3", "4")
IMAGES_AT_ONCE = 16


def feature_layout(config: FPTConfig, res: int, dtype: StoreDtype) -> RowLayout:
    """Return the layout of the features that FPT or FPT+ reads from ViT-B at `res` pixels."""
    return RowLayout(
        layers=len(config.tapped_layers(LPM_DEPTH)),
        heads=LPM_HEADS,
        tokens=num_important_tokens((res // PATCH) ** 2 + 1, config.token_ratio),
        head_dim=LPM_DIM // LPM_HEADS,
        dtype=dtype,
    )


def random_features(layout: RowLayout, count: int) -> torch.Tensor:
    """Return random features (2, layers, B, heads, n, head_dim) in fp32."""
    return torch.randn(2, layout.layers, count, layout.heads, layout.tokens, layout.head_dim)


def write_random_store(folder: Path, config: FPTConfig, res: int, dtype: StoreDtype, count: int) -> FeatureStore:
    """Write a store of `count` training images like one made by preloading."""
    layout = feature_layout(config, res, dtype)
    examples = tuple(Example(f"{index}.jpg", index % len(CLASSES), "train") for index in range(count))
    dataset = ImageDataset("random", CLASSES, examples, lambda example: Image.new("RGB", (res, res)))
    settings = StoreManifest(
        dataset=dataset.name,
        classes=CLASSES,
        dataset_fingerprint=dataset.fingerprint(),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        image_res=stored_image_res(config.side_res),
        model="vit_b",
        res=res,
        precision="bf16",
        token_ratio=config.token_ratio,
        layers=config.tapped_layers(LPM_DEPTH),
        heads=layout.heads,
        tokens=layout.tokens,
        head_dim=layout.head_dim,
        dtype=dtype,
    )
    writer = ShardWriter(folder, settings, examples, 0, 1)
    try:
        for start in range(0, count, IMAGES_AT_ONCE):
            some = min(IMAGES_AT_ONCE, count - start)
            images = np.random.randint(0, 256, (some, settings.image_bytes), dtype=np.uint8)
            features = layout.pack(*random_features(layout, some)).numpy()
            writer.write({"images": images, "features": features}, [(res, res)] * some, [None] * some)
    finally:
        writer.close()
    merge_shards(folder, settings, dataset, 1)
    return FeatureStore.open(folder)


def write_random_files(folder: Path, config: FPTConfig, res: int, count: int, image_px: int) -> tuple[list, list]:
    """Write an image file (JPEG, smooth noise) and a file of fp32 features for each of `count` images.

    Return their paths.
    """
    layout = feature_layout(config, res, "fp32")
    images, features = [], []
    for index in range(count):
        images.append(folder / f"{index}.jpg")
        features.append(folder / f"{index}.pt")
        noise = np.random.randint(0, 256, (image_px // 8, image_px // 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((image_px, image_px)).save(images[-1], quality=90)
        torch.save(random_features(layout, 1)[:, :, 0].contiguous(), features[-1])
    return images, features
