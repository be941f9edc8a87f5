"""A pretext for an LPM of the synthetic task: which structures does each patch hold?

Weights of a published LPM may be out of reach. This trains a small ViT on images of the generator with the structure
map as the target of every patch, from random weights. It is a supervised pretext on generated structure maps: the
classes of images are never seen, and the images are of other seeds and far richer in spots than those of the task.
"""

import numpy as np
import torch
from torch import Tensor

from .data.synthetic import draw_fundus

PATCH_SIZE = 16


def draw_pretext(num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 512, 512), uint8, and structure maps (N, 4, 32, 32), bool."""
    images, maps = [], []
    for index in range(num_images):
        rng = np.random.default_rng([seed, 2, index])
        fundus = draw_fundus(rng, microaneurysms=60, drusen=60)
        images.append(torch.from_numpy(fundus.pixels).permute(2, 0, 1))
        maps.append(torch.from_numpy(fundus.structures))
    return torch.stack(images), torch.stack(maps)


def crops(images: Tensor, maps: Tensor, count: int, patches: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    side = maps.shape[-1] - patches + 1
    chosen = torch.randint(len(images), (count,), generator=generator)
    tops = torch.randint(side, (count, 2), generator=generator)
    flips = torch.rand(count, generator=generator) < 0.5
    out, targets = [], []
    for image, (y, x), flip in zip(chosen, tops.tolist(), flips, strict=True):
        pixels = images[image, :, y * 16 : (y + patches) * 16, x * 16 : (x + patches) * 16]
        target = maps[image, :, y : y + patches, x : x + patches]
        out.append(pixels.flip(-1) if flip else pixels)
        targets.append(target.flip(-1) if flip else target)
    return torch.stack(out), torch.stack(targets)
