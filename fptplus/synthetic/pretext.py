"""A pretext task that trains a large pre-trained model (LPM) for the synthetic task: what is in and around each patch?

Weights of a published LPM may not be available. This trains a small ViT from random weights on crops of generated
images, with the generator's structure maps as targets for every patch:

    own        which of vessel, disc, druse and microaneurysm the patch holds
    around     how often each of them occurs in the crop, so that patches learn to attend to the rare ones

The pretext task is supervised by generated structure maps. It sees no image's class; its images have seeds that the
task never uses, and other numbers of spots. Crops are small, so that training takes minutes on a CPU; position
embeddings are interpolated to the resolution that the LPM is used at.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import LayerScale, VisionTransformer
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from fptplus.errors import InvalidInput
from fptplus.seed import check_seed
from fptplus.training.step import MAX_GRAD_NORM
from fptplus.training.training_config import check_count, check_lr

from .fundus import REFERENCE_RES, STRUCTURES, draw_fundus

MAX_SPOTS, NO_SPOTS_SHARE = 160, 0.3
"""Most spots of either kind in an image, and the share of images without any: crops must differ in their number."""

OWN_WEIGHTS = (2.0, 5.0, 5.0, 5.0)
"""Weight of a positive in the loss, for each of STRUCTURES: most patches hold none."""

FILTER_GAIN = 60.0
"""Factor by which initial patch filters, less their mean, exceed timm's: a spot is faint next to a patch's colour."""

AROUND_SCALE = 6.0
"""Factor applied to the target `around`, the square root of a structure's share of the patches."""

AROUND_WEIGHT, AROUND_BEGINS = 0.5, 0.4
"""Weight of `around` in the loss, and share of the steps before it joins: spots must be seen before being counted."""

WARMUP_STEPS = 60

PRETEXT_STREAM = 2
"""Second number in the seed of a pretext image; the task's images have their class index, 0 or 1, in that place."""


@dataclass(frozen=True, kw_only=True)
class PretextConfig:
    """How the LPM of the synthetic task is trained."""

    crop_res: int = 128
    """Height and width of the crops in pixels, a multiple of the patch size."""

    images: int = 100
    """Number of generated images that crops are taken from."""

    steps: int = 1000
    """Number of training steps."""

    batch_size: int = 32
    """Crops per training step."""

    lr: float = 2e-3
    """Peak learning rate of AdamW."""

    seed: int = 0
    """Random seed for the images, the crops and the weights."""

    def __post_init__(self) -> None:
        for name in ("images", "steps", "batch_size"):
            check_count(name, getattr(self, name))
        check_seed(self.seed)
        check_lr(self.lr)
        if self.crop_res > REFERENCE_RES:
            raise InvalidInput(
                f"crop_res must be at most {REFERENCE_RES}, the size of the images, got {self.crop_res}."
            )


@dataclass(frozen=True)
class Scenes:
    """Generated images with their structure maps."""

    images: Tensor
    """Images (N, 3, res, res), uint8."""

    structures: Tensor
    """Structure maps (N, 4, res / patch, res / patch), bool."""

    def crops(self, count: int, patches: int, generator: torch.Generator) -> "Scenes":
        """Return random crops of `patches` × `patches` whole patches, half of them mirrored."""
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
    """Draw images with any number of spots of either kind, up to far more than the task's images have."""
    images, structures = [], []
    for index in range(count):
        rng = np.random.default_rng([seed, PRETEXT_STREAM, index])
        microaneurysms, drusen = rng.integers(0, MAX_SPOTS + 1, 2) * (rng.random(2) >= NO_SPOTS_SHARE)
        fundus = draw_fundus(rng, microaneurysms=microaneurysms, drusen=drusen, patch_size=patch_size)
        images.append(torch.from_numpy(fundus.pixels).permute(2, 0, 1))
        structures.append(torch.from_numpy(fundus.structures))
    return Scenes(torch.stack(images), torch.stack(structures))


def train_pretext(
    vit: VisionTransformer,
    normalization: tuple[Sequence[float], Sequence[float]],
    config: PretextConfig,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Train a ViT of input resolution `crop_res` in place.

    Args:
        vit: a ViT with random weights; its class token and head are not used.
        normalization: mean and standard deviation of the colour channels that the LPM will be used with.
        config: what to train on and for how long.
        on_progress: called with the number of steps done and the total.

    Returns:
        Area under the ROC curve (AUC, 0 to 1) for each of STRUCTURES, over the patches of crops from other images; and
        the AUC for telling patches with microaneurysms from patches with drusen.
    """
    generator = torch.Generator().manual_seed(config.seed)
    scenes = draw_scenes(config.images, config.seed, vit.patch_embed.patch_size[0])
    model = Pretext(vit, normalization)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, config.steps))
    for step in range(config.steps):
        batch = scenes.crops(config.batch_size, vit.patch_embed.grid_size[0], generator)
        loss = model.loss(batch, AROUND_WEIGHT * (step >= AROUND_BEGINS * config.steps))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
        on_progress(step + 1, config.steps)
    return model.score(draw_scenes(8, config.seed + 1, vit.patch_embed.patch_size[0]), generator)


def _lr_factor(step: int, steps: int) -> float:
    """Return the learning rate factor of a step: linear warm-up, then half a cosine."""
    return min(1, (step + 1) / WARMUP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


@torch.no_grad()
def _initialize(vit: VisionTransformer) -> None:
    """Set random weights for a short training: every block counts from the first step, fine patterns outweigh colour.

    timm starts linear layers small (0.02) and layer scales at 1e-5, for trainings that are a thousand times longer.
    """
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, LayerScale):
            nn.init.ones_(module.gamma)
    filters = vit.patch_embed.proj.weight
    filters -= filters.mean(dim=(2, 3), keepdim=True) * (1 - 1 / FILTER_GAIN)
    filters *= FILTER_GAIN


class Pretext(nn.Module):
    """A ViT with a linear layer that predicts `own` and `around` for every patch."""

    def __init__(self, vit: VisionTransformer, normalization: tuple[Sequence[float], Sequence[float]]) -> None:
        super().__init__()
        self.vit, self.head = vit, nn.Linear(vit.embed_dim, 2 * len(STRUCTURES))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalization)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("own_weights", torch.tensor(OWN_WEIGHTS))
        _initialize(vit)

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, patches, 8) for uint8 images: logits of `own`, then values of `around`."""
        tokens = self.vit.forward_features((images / 255 - self.mean) / self.std)
        return self.head(tokens[:, self.vit.num_prefix_tokens :])

    def loss(self, scenes: Scenes, around_weight: float) -> Tensor:
        """Return the cross-entropy of `own` plus the weighted squared error of `around`."""
        own, around = self(scenes.images).split(len(STRUCTURES), dim=-1)
        present = scenes.structures.float()
        share = present.mean(dim=(2, 3)).sqrt() * AROUND_SCALE
        return F.binary_cross_entropy_with_logits(
            own, present.flatten(2).transpose(1, 2), pos_weight=self.own_weights
        ) + around_weight * F.mse_loss(around, share[:, None].expand_as(around))

    @torch.no_grad()
    def score(self, scenes: Scenes, generator: torch.Generator) -> dict[str, float]:
        """Return the AUC of `own` for each structure over the patches of 256 crops, and between the two kinds of spots.

        Nearly all patches hold no spot, so an LPM that sees spots but cannot tell them apart scores well on each kind.
        The task's label depends on the last figure alone.
        """
        self.vit.eval()
        crops = scenes.crops(256, self.vit.patch_embed.grid_size[0], generator)
        own = torch.cat([self(images)[..., : len(STRUCTURES)] for images in crops.images.split(32)])
        present = crops.structures.flatten(2).transpose(1, 2)
        scores = {
            name: binary_auroc(own[..., index].flatten(), present[..., index].flatten().long()).item()
            for index, name in enumerate(STRUCTURES)
        }
        druse, lesion = STRUCTURES.index("druse"), STRUCTURES.index("microaneurysm")
        one_kind = present[..., druse] != present[..., lesion]
        kinds = (own[..., lesion] - own[..., druse])[one_kind], present[..., lesion][one_kind].long()
        return scores | {"microaneurysm against druse": binary_auroc(*kinds).item()}
