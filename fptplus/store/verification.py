"""Hold stored features against the LPM run again on the original images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fptplus.data import ImageDataset
from fptplus.errors import InvalidInput

from .decode import to_square
from .feature_store import FeatureStore
from .preloading import FeatureMaker

TOLERANCE = 0.05
"""Largest distance of a stored token to one made again, as a share of the largest norm; bf16 and int8 cost less."""

LEAST_SHARE = 0.95
"""Of the tokens that must be found again; another device or precision changes a few near the end of the selection."""


@dataclass(frozen=True)
class RowCheck:
    """One image made again."""

    name: str
    share_found: float
    """Of the stored tokens, over all layers, heads, keys and values."""


def check_row(store: FeatureStore, row: int, dataset: ImageDataset, make_features: FeatureMaker) -> RowCheck:
    """Make the features of one row again from the original image.

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
    """Share of the tokens (..., n, head_dim) that lie close to one of the others of the same layer and head."""
    distances = torch.cdist(stored, again).amin(dim=-1)
    return (distances <= TOLERANCE * again.norm(dim=-1).amax()).float().mean().item()
