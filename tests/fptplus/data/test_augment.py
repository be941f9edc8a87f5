"""Batched augmentation compared with torchvision's, image by image."""

import pytest
import torch
import torchvision.transforms.v2 as T
from torchvision.transforms.v2 import functional as TF

from fptplus.data.augment import Augmentation, Views, draw_views, normalize, plain_views, render

pytestmark = pytest.mark.usefixtures("either_way")


@pytest.fixture
def images():
    return torch.randint(256, (6, 3, 144, 144), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def reference(image, box, flipped, brightness, contrast, first, res):
    left, top, width, height = (int(v) for v in box)
    out = image.float() / 255
    out = TF.resized_crop(out, top, left, height, width, [res, res], antialias=True)
    out = TF.horizontal_flip(out) if flipped else out
    steps = [lambda x: TF.adjust_brightness(x, brightness), lambda x: TF.adjust_contrast(x, contrast)]
    for step in steps if first else steps[::-1]:
        out = step(out)
    return out


def test_a_view_is_what_torchvision_makes_of_the_same_parameters(images):
    boxes = torch.tensor(
        [[0, 0, 144, 144], [3, 9, 130, 128], [10, 0, 120, 140], [20, 14, 124, 130], [1, 2, 143, 120], [0, 5, 129, 139]]
    )
    views = Views(
        boxes=boxes / 144,
        flipped=torch.tensor([False, True, True, False, True, False]),
        brightness=torch.tensor([1.0, 0.8, 1.2, 1.1, 0.93, 1.17]),
        contrast=torch.tensor([1.0, 1.2, 0.8, 1.15, 0.9, 0.85]),
        brightness_first=torch.tensor([True, False, True, False, True, False]),
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
            128,
        )
        torch.testing.assert_close(ours[index], theirs, atol=2e-4, rtol=0)


def test_a_plain_view_is_an_antialiased_resize(images):
    expected = TF.resize(images.float() / 255, [64, 64], antialias=True)
    torch.testing.assert_close(render(images, plain_views(6), 64), expected, atol=1e-5, rtol=0)


def test_views_are_distributed_as_torchvision_draws_them():
    count, size = 4000, 1024
    ours = draw_views(Augmentation(), count, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    crop = T.RandomResizedCrop(128, scale=(0.8, 1.0), ratio=(0.7, 1.3), antialias=True)
    blank = torch.empty(3, size, size)
    drawn = [crop.make_params([blank]) for _ in range(count)]
    theirs = torch.tensor([[p["left"], p["top"], p["width"], p["height"]] for p in drawn]) / size
    for ours_column, theirs_column in zip(ours.boxes.T, theirs.T, strict=True):
        quantiles = torch.linspace(0.05, 0.95, 19)
        difference = (ours_column.quantile(quantiles) - theirs_column.quantile(quantiles)).abs()
        assert difference.max() < 0.012
    assert ours.flipped.float().mean() == pytest.approx(0.5, abs=0.03)
    assert ours.brightness_first.float().mean() == pytest.approx(0.5, abs=0.03)
    assert 0.8 <= ours.brightness.min() < 0.805 and 1.195 < ours.contrast.max() <= 1.2


def test_a_slice_of_views_is_that_of_each_image(images):
    views = draw_views(Augmentation(), 6, torch.Generator().manual_seed(1))
    torch.testing.assert_close(render(images, views, 96)[2:5], render(images[2:5], views[2:5], 96))


def test_normalizing_gives_mean_0_and_deviation_1():
    images = torch.rand(4, 3, 32, 32)
    mean, std = images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3))
    normal = normalize(images.clone(), mean.tolist(), std.tolist())
    torch.testing.assert_close(normal.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
