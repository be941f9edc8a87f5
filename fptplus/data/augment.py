"""Augmentation of a whole batch on its device: random resized crop, flip, brightness, contrast (official code).

The distribution is that of torchvision's RandomResizedCrop, RandomHorizontalFlip and ColorJitter in turn, except that
boxes are not rounded to whole pixels, since the stored image is smaller than the original. A view is resampled with two
matrix products, one for rows and one for columns, by the antialiased triangle filter of torchvision's resize.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fptplus import cpu_kernels

CROP_ATTEMPTS = 10
"""Number of boxes tried before the whole image is taken (torchvision)."""

_GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in torchvision's greyscale."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The distribution of random views; the defaults are the official training code's."""

    min_scale: float = 0.8
    """Smallest share of the image's area that a crop covers; the largest is all of it."""

    min_ratio: float = 0.7
    max_ratio: float = 1.3
    """Bounds of a crop's width over height, whose logarithm is drawn uniformly."""

    flip_probability: float = 0.5
    """Probability of mirroring left and right."""

    brightness: float = 0.2
    contrast: float = 0.2
    """Largest deviation of either factor, brightness or contrast, from 1."""


OFFICIAL = Augmentation()


@dataclass(frozen=True)
class Views:
    """How to look at each image of a batch; every field has one entry per image."""

    boxes: Tensor
    """Crops (B, 4): left, top, width and height as shares of the image."""

    flipped: Tensor
    brightness: Tensor
    contrast: Tensor
    brightness_first: Tensor
    """Whether brightness changes before contrast."""

    def __getitem__(self, chosen: slice) -> "Views":
        return Views(*(getattr(self, field.name)[chosen] for field in fields(self)))


def draw_views(augmentation: Augmentation, count: int, generator: torch.Generator) -> Views:
    """Draw random views of `count` square images, on the CPU."""

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    area = between(augmentation.min_scale, 1, count, CROP_ATTEMPTS)
    ratio = between(math.log(augmentation.min_ratio), math.log(augmentation.max_ratio), count, CROP_ATTEMPTS).exp()
    widths, heights = (area * ratio).sqrt(), (area / ratio).sqrt()
    inside = (widths <= 1) & (heights <= 1)
    first = inside.to(torch.uint8).argmax(dim=1, keepdim=True)
    whole = ~inside.any(dim=1)
    width, height = (s.gather(1, first).squeeze(1).where(~whole, torch.ones(count)) for s in (widths, heights))
    left, top = (between(0, 1, count) * (1 - size) for size in (width, height))
    return Views(
        boxes=torch.stack([left, top, width, height], dim=1),
        flipped=between(0, 1, count) < augmentation.flip_probability,
        brightness=between(1 - augmentation.brightness, 1 + augmentation.brightness, count),
        contrast=between(1 - augmentation.contrast, 1 + augmentation.contrast, count),
        brightness_first=between(0, 1, count) < 0.5,
    )


def plain_views(count: int) -> Views:
    """Return views of the whole image, unchanged, for evaluation."""
    ones, no = torch.ones(count), torch.zeros(count, dtype=torch.bool)
    return Views(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(count, 1), no, ones, ones, no)


def render(images: Tensor, views: Views, res: int) -> Tensor:
    """Crop, resize and augment a batch as its views say.

    Args:
        images: (B, 3, H, W) uint8.
        views: B views, on any device.
        res: height and width of the result in pixels.

    Returns:
        Images (B, 3, res, res) in fp32, 0 to 1, on the images' device.
    """
    if cpu_kernels.can_run_on(images):
        return _rendered_on_cpu(images.contiguous(), views, res)
    height, width = images.shape[-2:]
    device = images.device
    left, top, crop_width, crop_height = views.boxes.to(device).unbind(dim=1)
    rows = _resampling(top * height, crop_height * height, height, res)
    columns = _resampling(left * width, crop_width * width, width, res)
    columns = torch.where(views.flipped.to(device)[:, None, None], columns.flip(1), columns)
    pixels = images.float().mul_(1 / 255)
    out = rows.unsqueeze(1) @ pixels @ columns.transpose(1, 2).unsqueeze(1)
    brightness, first = views.brightness.to(device), views.brightness_first.to(device)
    ones = torch.ones_like(brightness)
    out = _brightened(out, torch.where(first, brightness, ones))
    out = _contrasted(out, views.contrast.to(device))
    return _brightened(out, torch.where(first, ones, brightness))


def _rendered_on_cpu(images: Tensor, views: Views, res: int) -> Tensor:
    """Do what `render` does, without matrix products: a view's pixel depends on just a few pixels of the image."""
    out = torch.empty(*images.shape[:2], res, res)
    fields = (views.boxes, views.flipped, views.brightness, views.contrast, views.brightness_first)
    cpu_kernels.run("render", images, *(field.contiguous() for field in fields), out)
    return out


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise images (B, 3, H, W) in 0 to 1 by each channel's mean and standard deviation, in place."""
    channels = (1, 3, 1, 1)
    mean, std = (torch.tensor(values, device=images.device).view(channels) for values in (mean, std))
    return images.sub_(mean).div_(std)


def _resampling(start: Tensor, length: Tensor, size: int, res: int) -> Tensor:
    """Return weights (B, res, size) that resample `length` pixels from `start` on to `res` pixels."""
    scale = (length / res).view(-1, 1, 1)
    outputs = torch.arange(res, device=start.device).view(1, -1, 1) + 0.5
    pixels = torch.arange(size, device=start.device).view(1, 1, -1) + 0.5
    centers = start.view(-1, 1, 1) + outputs * scale
    weights = (1 - (pixels - centers).abs() / scale.clamp(min=1)).clamp_(min=0)
    end = (start + length).view(-1, 1, 1)
    weights *= (pixels > start.view(-1, 1, 1)) & (pixels < end)  # a crop does not see the pixels around it
    return weights / weights.sum(dim=2, keepdim=True)


def _brightened(images: Tensor, factors: Tensor) -> Tensor:
    return (images * factors.view(-1, 1, 1, 1)).clamp_(0, 1)


def _contrasted(images: Tensor, factors: Tensor) -> Tensor:
    grey = (images * images.new_tensor(_GREY).view(1, 3, 1, 1)).sum(dim=1).mean(dim=(1, 2)).view(-1, 1, 1, 1)
    factors = factors.view(-1, 1, 1, 1)
    return (images * factors + grey * (1 - factors)).clamp_(0, 1)
