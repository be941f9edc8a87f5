"""A pretext that makes an LPM for the synthetic task: what does each patch hold, and what is there around it?

Weights of a published LPM may be out of reach. This trains a small ViT from random weights on crops of generated
images, with the generator's structure maps as targets of every patch:

    own        which of vessel, disc, druse and microaneurysm the patch holds
    around     how often each of them occurs in the crop, so that patches learn to attend to the rare ones

It is a supervised pretext on generated structure maps. No image's class is seen; the images are of seeds that the task
never uses, in other numbers of spots. Crops are small, so that it takes minutes on a CPU; position embeddings are
interpolated to the resolution that the LPM is used at.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .data.synthetic import STRUCTURES, draw_fundus
from .errors import InvalidInput
from .training import MAX_GRAD_NORM

PRETEXT_STREAM = 2
"""Second number of the seed of a pretext image; the task's images have their class index, 0 or 1, there."""


@dataclass(frozen=True, kw_only=True)
class PretextConfig:
    """How the LPM of the synthetic task is trained."""

    crop_res: int = 128
    """Height and width in pixels of the crops, a multiple of the patch size."""

    images: int = 100
    """Generated images that crops are taken from."""

    steps: int = 900
    """Batches of crops."""

    batch_size: int = 32
    """Crops in a batch."""

    lr: float = 2e-3
    """Of AdamW at its highest."""

    seed: int = 0
    """Of the images, the crops and the weights."""

    def __post_init__(self) -> None:
        for name in ("images", "steps", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise InvalidInput(f"{name} must be at least 1, got {value}.")


@dataclass(frozen=True)
class Scenes:
    """Generated images with their structure maps."""

    images: Tensor
    """(N, 3, res, res), uint8."""

    structures: Tensor
    """(N, 4, res / patch, res / patch), bool."""

    def crops(self, count: int, patches: int, generator: torch.Generator) -> "Scenes":
        """Random crops of `patches` × `patches` whole patches, half of them mirrored."""
        patch_size = self.images.shape[-1] // self.structures.shape[-1]
        corners = torch.randint(self.structures.shape[-1] - patches + 1, (count, 2), generator=generator)
        chosen = torch.randint(len(self.images), (count,), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        images, structures = [], []
        for scene, (y, x), mirror in zip(chosen, corners.tolist(), mirrored, strict=True):
            for source, unit, crops in ((self.images, patch_size, images), (self.structures, 1, structures)):
                crop = source[scene, :, y * unit : (y + patches) * unit, x * unit : (x + patches) * unit]
                crops.append(crop.flip(-1) if mirror else crop)
        return Scenes(torch.stack(images), torch.stack(structures))


def draw_scenes(count: int, seed: int, patch_size: int) -> Scenes:
    """Images with any number of spots of either kind, up to far more than the task's have."""
    images, structures = [], []
    for index in range(count):
        rng = np.random.default_rng([seed, PRETEXT_STREAM, index])
        microaneurysms, drusen = rng.integers(0, MAX_SPOTS + 1, 2) * (rng.random(2) >= NO_SPOTS_SHARE)
        fundus = draw_fundus(rng, microaneurysms=microaneurysms, drusen=drusen, patch_size=patch_size)
        images.append(torch.from_numpy(fundus.pixels).permute(2, 0, 1))
        structures.append(torch.from_numpy(fundus.structures))
    return Scenes(torch.stack(images), torch.stack(structures))


MAX_SPOTS, NO_SPOTS_SHARE = 160, 0.15
