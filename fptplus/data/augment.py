"""Augmentation of a whole batch on its device: flip, brightness, contrast, random resized crop (official code).

The distribution is that of torchvision's RandomHorizontalFlip, ColorJitter and RandomResizedCrop of the original image
in turn (`official`), except that boxes are not rounded to whole pixels, since the stored image is smaller. `square` is
ours: it crops the stored image, which has been squeezed to a square, and changes its colours after that.

A view is resampled with two matrix products, one for rows and one for columns, by the antialiased triangle filter of
torchvision's resize. The stored image has been through that filter before. The view's own is narrower by as much that
the variances of both add up to that of one filter from the original to the view: at twice the view's resolution the
result differs from it by 0.6 of 255 grey levels (root mean square, of which 0.3 is rounding).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

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

    crops_original: bool = True
    """Whether the original image is cropped, after its colours have changed. Otherwise the square that it was squeezed
    to is cropped, and the colours of the crop change."""


AugmentationName = Literal["official", "square"]

AUGMENTATIONS: dict[AugmentationName, Augmentation] = {
    "official": Augmentation(),
    "square": Augmentation(crops_original=False),
}


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

    before_crop: Tensor
    """Whether both change in the whole image, before it is cropped."""

    filtered: Tensor
    """Half-widths (B, 2), across and down, in pixels of the image, of the triangle filter that has made it from the
    original; 0 where the view's filter does not allow for it."""

    def __getitem__(self, chosen: slice) -> "Views":
        return Views(*(getattr(self, field.name)[chosen] for field in fields(self)))


def draw_views(
    augmentation: Augmentation, count: int, generator: torch.Generator, aspects: Tensor | None = None
) -> Views:
    """Draw random views of `count` images, on the CPU.

    Args:
        augmentation: the distribution to draw from.
        count: how many.
        generator: gives the same numbers whatever the images' proportions.
        aspects: width over height (count,) of the original images, for an augmentation that crops these; by default
            they are square.
    """
    if aspects is None or not augmentation.crops_original:
        aspects = torch.ones(count)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    area = between(augmentation.min_scale, 1, count, CROP_ATTEMPTS)
    ratio = between(math.log(augmentation.min_ratio), math.log(augmentation.max_ratio), count, CROP_ATTEMPTS).exp()
    shares = ratio / aspects.unsqueeze(1)
    widths, heights = (area * shares).sqrt(), (area / shares).sqrt()
    inside = (widths <= 1) & (heights <= 1)
    first, fits = inside.to(torch.uint8).argmax(dim=1, keepdim=True), inside.any(dim=1)
    largest = (augmentation.max_ratio / aspects).clamp(max=1), (aspects / augmentation.min_ratio).clamp(max=1)
    width, height = (
        sizes.gather(1, first).squeeze(1).where(fits, most)
        for sizes, most in zip((widths, heights), largest, strict=True)
    )
    left, top = (between(0, 1, count).where(fits, torch.tensor(0.5)) * (1 - size) for size in (width, height))
    return Views(
        boxes=torch.stack([left, top, width, height], dim=1),
        flipped=between(0, 1, count) < augmentation.flip_probability,
        brightness=between(1 - augmentation.brightness, 1 + augmentation.brightness, count),
        contrast=between(1 - augmentation.contrast, 1 + augmentation.contrast, count),
        brightness_first=between(0, 1, count) < 0.5,
        before_crop=torch.full((count,), augmentation.crops_original),
        filtered=torch.zeros(count, 2),
    )


def plain_views(count: int) -> Views:
    """Return views of the whole image, unchanged, for evaluation."""
    ones, no = torch.ones(count), torch.zeros(count, dtype=torch.bool)
    return Views(torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(count, 1), no, ones, ones, no, no, torch.zeros(count, 2))


def filter_of_storing(sizes: Tensor, stored_res: int) -> Tensor:
    """Return half-widths (B, 2) of the filter that has made stored images, see `Views.filtered`.

    Args:
        sizes: width and height (B, 2) of the originals in pixels.
        stored_res: height and width in pixels of what was made of them.
    """
    return (stored_res / sizes).clamp(min=1)


def render(images: Tensor, views: Views, res: int) -> Tensor:
    """Augment, crop and resize a batch as its views say.

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
    filtered_across, filtered_down = views.filtered.to(device).unbind(dim=1)
    rows = _resampling(top * height, crop_height * height, height, res, filtered_down)
    columns = _resampling(left * width, crop_width * width, width, res, filtered_across)
    columns = torch.where(views.flipped.to(device)[:, None, None], columns.flip(1), columns)
    pixels = images.float().mul_(1 / 255)
    if views.before_crop.any():
        pixels = _recoloured(pixels, views, views.before_crop)
    out = rows.unsqueeze(1) @ pixels @ columns.transpose(1, 2).unsqueeze(1)
    return out if views.before_crop.all() else _recoloured(out, views, ~views.before_crop)


def _recoloured(images: Tensor, views: Views, chosen: Tensor) -> Tensor:
    """Change brightness and contrast of the chosen images."""
    one = torch.ones(())
    contrast, brightness = (f.where(chosen, one).to(images.device) for f in (views.contrast, views.brightness))
    first = views.brightness_first.to(images.device)
    ones = torch.ones_like(brightness)
    images = _brightened(images, torch.where(first, brightness, ones))
    images = _contrasted(images, contrast)
    return _brightened(images, torch.where(first, ones, brightness))


def _rendered_on_cpu(images: Tensor, views: Views, res: int) -> Tensor:
    """Do what `render` does, without matrix products: a view's pixel depends on just a few pixels of the image."""
    out = torch.empty(*images.shape[:2], res, res)
    parts = [getattr(views, field.name).contiguous() for field in fields(views)]
    cpu_kernels.run("render", images, *parts, out)
    return out


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise images (B, 3, H, W) in 0 to 1 by each channel's mean and standard deviation, in place."""
    channels = (1, 3, 1, 1)
    mean, std = (torch.tensor(values, device=images.device).view(channels) for values in (mean, std))
    return images.sub_(mean).div_(std)


def _resampling(start: Tensor, length: Tensor, size: int, res: int, filtered: Tensor) -> Tensor:
    """Return weights (B, res, size) that resample `length` pixels from `start` on to `res` pixels.

    The triangle's half-width is that of one filter less `filtered`, half-widths (B,), in their squares.
    """
    scale = (length / res).view(-1, 1, 1)
    outputs = torch.arange(res, device=start.device).view(1, -1, 1) + 0.5
    pixels = torch.arange(size, device=start.device).view(1, 1, -1) + 0.5
    centers = start.view(-1, 1, 1) + outputs * scale
    reach = (scale.square() - filtered.view(-1, 1, 1).square()).clamp(min=1).sqrt()
    weights = (1 - (pixels - centers).abs() / reach).clamp_(min=0)
    end = (start + length).view(-1, 1, 1)
    weights *= (pixels > start.view(-1, 1, 1)) & (pixels < end)  # a crop does not see the pixels around it
    return weights / weights.sum(dim=2, keepdim=True)


def _brightened(images: Tensor, factors: Tensor) -> Tensor:
    return (images * factors.view(-1, 1, 1, 1)).clamp_(0, 1)


def _contrasted(images: Tensor, factors: Tensor) -> Tensor:
    grey = (images * images.new_tensor(_GREY).view(1, 3, 1, 1)).sum(dim=1).mean(dim=(1, 2)).view(-1, 1, 1, 1)
    factors = factors.view(-1, 1, 1, 1)
    return (images * factors + grey * (1 - factors)).clamp_(0, 1)
