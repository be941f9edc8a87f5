"""Compare stored features with those recomputed by the large pre-trained model (LPM) from the original images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fptplus.data import ImageDataset
from fptplus.errors import InvalidInput

from .decode import to_square
from .feature_store import FeatureStore
from .preloading import FeatureMaker

TOLERANCE = 0.05
"""Largest distance from a stored to a recomputed token, as a share of the largest norm; bf16 and int8 cost less."""

LEAST_SHARE = 0.95
"""Share of tokens that must be found again; another device or precision changes a few at the end of the selection."""


@dataclass(frozen=True)
class RowCheck:
    """One image whose features were recomputed."""

    name: str
    share_found: float
    """Share of the stored tokens that were found again, over all layers, heads, keys and values."""


def check_row(store: FeatureStore, row: int, dataset: ImageDataset, make_features: FeatureMaker) -> RowCheck:
    """Recompute the features of one row from the original image, and compare them.

    Raises:
        InvalidInput: if the dataset lacks the image, or too few tokens are found again.
    """
    name = store.manifest.examples[row].name
    found = [example for example in dataset.examples if example.name == name]
    if not found:
        raise InvalidInput(f"the dataset must hold {name}, row {row} of {store.folder}, it does not; name its own.")
    image = to_square(dataset.with_greys(store.manifest.greys).read(found[0]), store.manifest.res)
    rows, _ = make_features(image.unsqueeze(0))
    again = store.layout.unpack(rows.cpu()).keys_and_values()
    keys, values, *_ = store.features([row])
    shares = [_share_found(stored, made) for stored, made in zip((keys, values), again, strict=True)]
    check = RowCheck(name, min(shares))
    if check.share_found < LEAST_SHARE:
        raise InvalidInput(
            f"{store.folder} must hold the features of {name} in row {row}, only {check.share_found:.0%} of its tokens "
            "come out again; the image, its resizing or the LPM has changed: preload again."
        )
    return check


def _share_found(stored: Tensor, again: Tensor) -> float:
    """Return the share of stored tokens (..., n, head_dim) close to a recomputed one of the same layer and head."""
    distances = torch.cdist(stored, again).amin(dim=-1)
    return (distances <= TOLERANCE * again.norm(dim=-1).amax()).float().mean().item()
