"""`python -m fptplus verify`: check that a store is complete, and that its features match its images."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from fptplus.data import ImageDataset, open_dataset
from fptplus.errors import InvalidInput
from fptplus.network.frozen_backbone import FrozenBackbone
from fptplus.seed import check_seed
from fptplus.store.feature_store import FeatureStore
from fptplus.store.preloading import FeatureMaker
from fptplus.store.source_files import refuse_changed
from fptplus.store.verification import check_row
from fptplus.training.checkpoint import lpm_sha256
from methods import create_backbone

from .device import DeviceName, resolve_device
from .plain_console import plain_console


@dataclass(frozen=True, kw_only=True)
class VerifyStoreConfig:
    """Check a store's manifest, the size of its files and the checksum of every row.

    With --data the image files must still be those that it was made from, and (with --weights) the features of a few
    images are recomputed and compared. The exit status is 1 if anything is wrong.

    Example: --store stores/messidor2
    """

    store: Path
    """Folder that `preload` has written."""

    data: Path | None = None
    """Images that the store was made from, as given to `preload`."""

    weights: str | None = None
    """Weights of the frozen large pre-trained model (LPM) that the store was made with: a checkpoint file or timm
    pretrained name. Default: random weights."""

    rows: int = 4
    """Number of images whose features are recomputed, spread evenly."""

    device: DeviceName = "auto"
    """Device for the LPM. auto: the CUDA device if there is one, else the CPU."""

    seed: int = 0
    """Random seed that was given to `preload`."""


def main(config: VerifyStoreConfig) -> int:
    """Check a store; 1 if something is wrong with it."""
    if config.rows < 1:
        raise InvalidInput(f"rows must be at least 1, got {config.rows}.")
    console = plain_console()
    check_seed(config.seed)
    try:
        store = FeatureStore.open(config.store)
        store.verify()
        console.print(f"{config.store}: {len(store):,} rows as they were written", highlight=False, soft_wrap=True)
        if config.data is not None:
            dataset = open_dataset(config.data, seed=config.seed)
            refuse_changed(store.folder, dataset, dataset.examples, dict(store.manifest.sources))
            if store.has_features:
                _make_again(store, config, dataset, console)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _make_again(store: FeatureStore, config: VerifyStoreConfig, dataset: ImageDataset, console: Console) -> None:
    """Compare the features of a few images with what the LPM gives for the originals."""
    manifest = store.manifest
    torch.manual_seed(config.seed)
    vit = create_backbone(manifest.model, manifest.res, len(manifest.classes), weights=config.weights)
    store.check_matches(weights_sha256=lpm_sha256(vit))
    backbone = FrozenBackbone(vit, manifest.layers, manifest.token_ratio)
    make_features = FeatureMaker(backbone, manifest, torch.device(resolve_device(config.device)))
    for row in np.linspace(0, len(store) - 1, min(config.rows, len(store)), dtype=int):
        check = check_row(store, row, dataset, make_features)
        console.print(
            f"{check.name}: {check.share_found:.1%} of its tokens recomputed alike", highlight=False, soft_wrap=True
        )
