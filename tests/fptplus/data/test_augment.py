"""Batched augmentation compared with torchvision's, image by image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
from PIL import Image
from torchvision.transforms.v2 import functional as TF

from fptplus.data.augment import (
    AUGMENTATIONS,
    Views,
    draw_views,
    filter_of_storing,
    normalize,
    plain_views,
    render,
)
from fptplus.store.decode import to_square

pytestmark = pytest.mark.usefixtures("either_way")


@pytest.fixture
def images():
    return torch.randint(256, (6, 3, 144, 144), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def reference(image, box, flipped, brightness, contrast, first, crop_last, res):
    left, top, width, height = (int(v) for v in box)
    colours = [lambda x: TF.adjust_brightness(x, brightness), lambda x: TF.adjust_contrast(x, contrast)]
    colours = colours if first else colours[::-1]
    crop = [lambda x: TF.resized_crop(x, top, left, height, width, [res, res], antialias=True)]
    out = image.float() / 255
    for step in colours + crop if crop_last else crop + colours:
        out = step(out)
    return TF.horizontal_flip(out) if flipped else out


@pytest.mark.parametrize("crop_last", [[True] * 6, [False] * 6, [True, False, True, True, False, False]])
def test_a_view_is_what_torchvision_makes_of_the_same_parameters(images, crop_last):
    images[:, :, 40:80, 40:80] //= 8  # a crop's mean differs from the whole image's
    images[:, :, :9] = 255
    boxes = torch.tensor(
        [[0, 0, 144, 144], [3, 9, 130, 128], [10, 0, 120, 140], [20, 14, 124, 130], [1, 2, 143, 120], [0, 5, 129, 139]]
    )
    views = Views(
        boxes=boxes / 144,
        flipped=torch.tensor([False, True, True, False, True, False]),
        brightness=torch.tensor([1.0, 0.8, 1.2, 1.1, 0.93, 1.17]),
        contrast=torch.tensor([1.0, 1.2, 0.8, 1.15, 0.9, 0.85]),
        brightness_first=torch.tensor([True, False, True, False, True, False]),
        before_crop=torch.tensor(crop_last),
        filtered=torch.zeros(6, 2),
    )
    ours = render(images, views, 128)
    for index in range(6):
        theirs = reference(
            images[index],
            boxes[index],
            views.flipped[index],
            views.brightness[index].item(),
            views.contrast[index].item(),
            views.brightness_first[index],
            crop_last[index],
            128,
        )
        torch.testing.assert_close(ours[index], theirs, atol=2e-4, rtol=0)


def test_a_plain_view_is_an_antialiased_resize(images):
    expected = TF.resize(images.float() / 255, [64, 64], antialias=True)
    torch.testing.assert_close(render(images, plain_views(6), 64), expected, atol=1e-5, rtol=0)


def test_a_view_of_a_stored_image_is_as_sharp_as_one_resampled_once():
    """Images of 1 / f² noise, whose neighbouring pixels are as alike as those of photographs."""
    generator = np.random.default_rng(0)
    distance = np.hypot(*np.meshgrid(np.fft.fftfreq(1200), np.fft.fftfreq(900), indexing="ij"))
    spectrum = np.fft.fft2(generator.normal(size=(3, 1200, 900))) / np.maximum(distance, 1 / 1200) ** 1.2
    noise = np.fft.ifft2(spectrum).real
    pixels = np.clip(128 + 40 * (noise - noise.mean()) / noise.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    original = Image.fromarray(pixels)
    views = draw_views(AUGMENTATIONS["official"], 8, torch.Generator().manual_seed(0), torch.full((8,), 900 / 1200))
    ones = torch.ones(8)
    views = replace(views, brightness=ones, contrast=ones, flipped=ones < 0)
    filtered = filter_of_storing(torch.tensor([[900.0, 1200.0]] * 8), 256)
    stored = to_square(original, 256).expand(8, -1, -1, -1)
    once, as_once, twice = [], render(stored, replace(views, filtered=filtered), 128), render(stored, views, 128)
    for left, top, width, height in (views.boxes * torch.tensor([900, 1200, 900, 1200])).tolist():
        box = (left, top, left + width, top + height)
        once.append(np.asarray(original.resize((128, 128), Image.Resampling.BILINEAR, box=box)))
    once = torch.from_numpy(np.stack(once)).permute(0, 3, 1, 2) / 255
    energy = [images.diff(dim=3).square().mean() for images in (as_once, twice, once)]
    assert (as_once - once).square().mean().sqrt() * 255 < 0.7
    assert energy[0] / energy[2] == pytest.approx(1, abs=0.02)
    assert energy[1] / energy[2] < 0.93


@pytest.mark.parametrize("of_size", [(1024, 1024), (1500, 1000), (600, 1000)])
def test_views_are_distributed_as_torchvision_draws_them(of_size):
    count, (width, height) = 4000, of_size
    aspects = torch.full((count,), width / height)
    ours = draw_views(AUGMENTATIONS["official"], count, torch.Generator().manual_seed(0), aspects)
    torch.manual_seed(0)
    crop = T.RandomResizedCrop(128, scale=(0.8, 1.0), ratio=(0.7, 1.3), antialias=True)
    blank = torch.empty(3, height, width)
    drawn = [crop.make_params([blank]) for _ in range(count)]
    theirs = torch.tensor([[p["left"], p["top"], p["width"], p["height"]] for p in drawn])
    theirs = theirs / torch.tensor([width, height, width, height])
    for ours_column, theirs_column in zip(ours.boxes.T, theirs.T, strict=True):
        quantiles = torch.linspace(0.05, 0.95, 19)
        difference = (ours_column.quantile(quantiles) - theirs_column.quantile(quantiles)).abs()
        assert difference.max() < 0.012
    assert ours.flipped.float().mean() == pytest.approx(0.5, abs=0.03)
    assert ours.brightness_first.float().mean() == pytest.approx(0.5, abs=0.03)
    assert 0.8 <= ours.brightness.min() < 0.805 and 1.195 < ours.contrast.max() <= 1.2
    square = draw_views(AUGMENTATIONS["square"], count, torch.Generator().manual_seed(0), aspects)
    same_as_of_squares = draw_views(AUGMENTATIONS["official"], count, torch.Generator().manual_seed(0))
    assert torch.equal(square.boxes, same_as_of_squares.boxes) and not square.before_crop.any()


def test_a_slice_of_views_is_that_of_each_image(images):
    views = draw_views(AUGMENTATIONS["official"], 6, torch.Generator().manual_seed(1), torch.linspace(0.5, 2, 6))
    torch.testing.assert_close(render(images, views, 96)[2:5], render(images[2:5], views[2:5], 96))


def test_normalizing_gives_mean_0_and_deviation_1():
    images = torch.rand(4, 3, 32, 32)
    mean, std = images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))
    normal = normalize(images.clone(), mean.tolist(), std.tolist())
    torch.testing.assert_close(normal.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
