"""Synthetic fundus-like images whose label shows only at high resolution: class folders, and maps of what is where.

    healthy           drusen: tiny spots with a yellow core
    microaneurysms    as many spots in total, some of them with a red core

Core and rim of a spot cancel, so that its mean colour is that of its surroundings. At 512 px the core is about three
pixels across; at 128 px what is left of it disappears in the mottled background. Number, place and strength of the
spots, the disc, the vessels, the illumination and the background colour come from the same distributions in both
classes, so neither colours nor a small image reveal the label. Nothing here is medical evidence.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fptplus.data.dataset import Split
from fptplus.data.new_folder import new_folder
from fptplus.errors import InvalidInput
from fptplus.seed import check_seed

CLASSES = ("healthy", "microaneurysms")
STRUCTURES = ("vessel", "disc", "druse", "microaneurysm")
"""What a patch can hold, in the order of a structure map's first axis."""

REFERENCE_RES = 512
"""Height and width in pixels of the image that the sizes below refer to; they scale with the actual image."""

MOST_IMAGES_PER_CLASS, LARGEST_RES = 10**6, 2**13
MIN_IMAGES_PER_CLASS = 10

SPOT_SIGMAS = (1.25, 1.9, 2.7)
"""Standard deviations of a spot's core, rim and faint outer rim: Gaussians that cancel."""

MICROANEURYSM_COLOUR = np.array([0.08, -0.26, -0.10], np.float32)
DRUSE_COLOUR = np.array([0.17, 0.14, -0.22], np.float32)
"""How far the centre of a spot of strength 1 is from its surroundings in red, green and blue, for either kind."""

MOTTLE = 0.04
"""Standard deviation of the mottles' red, green and blue; at 128 px, spots must not stand out by their colour."""


@dataclass(frozen=True)
class Fundus:
    """One generated image and what is in it."""

    pixels: np.ndarray
    """RGB image (res, res, 3), uint8."""

    structures: np.ndarray
    """Structure map (4, res / patch, res / patch), bool: which of STRUCTURES each patch holds."""


def draw_fundus(
    rng: np.random.Generator, *, microaneurysms: int, drusen: int, res: int = REFERENCE_RES, patch_size: int = 16
) -> Fundus:
    """Draw one image.

    Args:
        rng: decides everything that the other arguments do not.
        microaneurysms, drusen: number of spots of each kind.
        res: height and width in pixels.
        patch_size: patch size of the structure map, in pixels.
    """
    scale = res / REFERENCE_RES
    disc = np.array([rng.choice([0.26, 0.74]) + rng.normal(0, 0.02), 0.5 + rng.normal(0, 0.03)]) * res
    inside = _distance(res, np.array([res / 2, res / 2])) < 0.48 * res
    disc_mask = np.clip((rng.uniform(30, 42) * scale - _distance(res, disc)) / (5 * scale) + 0.5, 0, 1)
    vessels = _vessels(rng, res, disc)

    image = _background(rng, res)
    image += disc_mask[..., None] * np.array([0.22, 0.28, 0.16], np.float32)
    image -= vessels[..., None] * (np.array([0.22, 0.20, 0.08], np.float32) * np.float32(rng.uniform(0.8, 1.2)))
    centres = _spot_centres(rng, res, microaneurysms + drusen)
    colours = [MICROANEURYSM_COLOUR] * microaneurysms + [DRUSE_COLOUR] * drusen
    for centre, colour in zip(centres, colours, strict=True):
        _stamp(image, centre, colour * np.float32(rng.uniform(0.8, 1.2)), scale)
    image += rng.standard_normal((res, res, 3), np.float32) * np.float32(0.02)
    image *= inside[..., None]

    maps = [vessels > 0.3, disc_mask > 0.5]
    maps += [_spot_mask(centres[microaneurysms:], res), _spot_mask(centres[:microaneurysms], res)]
    structures = np.stack([_any_in_patch(mask & inside, patch_size) for mask in maps])
    return Fundus((image.clip(0, 1) * 255 + 0.5).astype(np.uint8), structures)


def draw_example(seed: int, label: int, index: int, res: int = REFERENCE_RES) -> Fundus:
    """Draw the image of a class at an index; it is the same whatever else is drawn."""
    rng = np.random.default_rng([seed, label, index])
    spots, lesions = rng.integers(18, 31), rng.integers(8, 17)
    lesions = lesions if CLASSES[label] == "microaneurysms" else 0
    return draw_fundus(rng, microaneurysms=lesions, drusen=spots - lesions, res=res)


def _distance(res: int, centre: np.ndarray) -> np.ndarray:
    """Return each pixel's distance to (x, y), as (res, res) in pixels."""
    axis = np.arange(res, dtype=np.float32)
    return np.hypot(axis[None, :] - np.float32(centre[0]), axis[:, None] - np.float32(centre[1]))


def _background(rng: np.random.Generator, res: int) -> np.ndarray:
    """Return a background (res, res, 3) with uneven illumination, and clouds and mottles that small images keep."""
    colour = np.array([0.64, 0.44, 0.34]) * rng.uniform(0.9, 1.1, 3)
    light = _enlarged(rng.uniform(0.75, 1.15, (3, 3)), res)
    mottles = [_enlarged(rng.normal(0, MOTTLE, (res // 4, res // 4)), res) for _ in colour]
    clouds = _enlarged(rng.normal(0, 0.05, (16, 16)), res)
    return light[..., None] * colour.astype(np.float32) + clouds[..., None] + np.stack(mottles, axis=-1)


def _enlarged(grid: np.ndarray, res: int) -> np.ndarray:
    return np.asarray(Image.fromarray(grid.astype(np.float32)).resize((res, res), Image.Resampling.BICUBIC))


def _vessels(rng: np.random.Generator, res: int, disc: np.ndarray) -> np.ndarray:
    """Return the opacity (res, res) of vessels that leave the disc, bend and branch."""
    canvas = Image.new("L", (res, res))
    draw = ImageDraw.Draw(canvas)
    scale = res / REFERENCE_RES
    towards_middle = 0.0 if disc[0] < res / 2 else np.pi
    for angle in (-1.2, -0.5, 0.5, 1.2, 2.4, -2.4):
        width = rng.uniform(5, 8)
        path = _walk(rng, disc, towards_middle + angle + rng.normal(0, 0.15), -0.012 * np.sign(angle), 34, scale)
        draw.line([tuple(point) for point in path], fill=255, width=max(1, round(width * scale)), joint="curve")
        for start in rng.integers(6, 30, 3):
            heading = np.arctan2(*(path[start + 1] - path[start])[::-1]) + rng.choice([-0.7, 0.7])
            branch = _walk(rng, path[start], heading, 0.0, 14, scale)
            draw.line([tuple(point) for point in branch], fill=200, width=max(1, round(width * 0.45 * scale)))
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(0.8 * scale)), np.float32) / 255


def _walk(
    rng: np.random.Generator, start: np.ndarray, heading: float, bend: float, steps: int, scale: float
) -> np.ndarray:
    """Return the points (steps, 2) of a path that turns slowly."""
    headings = heading + np.cumsum(bend + rng.normal(0, 0.08, steps))
    return start + np.cumsum(np.stack([np.cos(headings), np.sin(headings)], axis=1) * 11 * scale, axis=0)


def _spot_centres(rng: np.random.Generator, res: int, count: int) -> np.ndarray:
    """Return (count, 2) positions (x, y) well inside the field of view."""
    radius, angle = 0.44 * res * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
    return res / 2 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _stamp(image: np.ndarray, centre: np.ndarray, colour: np.ndarray, scale: float) -> None:
    """Add a spot to an image: Gaussians whose sum has no volume or second moment, so that blurring leaves little."""
    variances = (np.array(SPOT_SIGMAS) * scale) ** 2
    moments = np.stack([np.ones(3), variances, [1, 0, 0]])
    volumes = np.linalg.solve(moments, [0, 0, 1])
    half = int(np.ceil(4 * SPOT_SIGMAS[-1] * scale))
    x, y = np.floor(centre).astype(int)
    offsets = np.arange(-half, half + 1)
    squared = (offsets[None, :] + x - centre[0]) ** 2 + (offsets[:, None] + y - centre[1]) ** 2
    profile = sum(v / s * np.exp(-squared / (2 * s)) for v, s in zip(volumes, variances, strict=True))
    profile /= (volumes / variances).sum()
    window = slice(y - half, y + half + 1), slice(x - half, x + half + 1)
    image[window] += profile[..., None].astype(np.float32) * colour


def _spot_mask(centres: np.ndarray, res: int) -> np.ndarray:
    """Return a mask (res, res) that is true at the core of each spot."""
    mask = np.zeros((res, res), bool)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            x, y = np.floor(centres + np.array([dx, dy])).astype(int).T
            mask[y, x] = True
    return mask


def _any_in_patch(mask: np.ndarray, patch_size: int) -> np.ndarray:
    side = len(mask) // patch_size
    return mask.reshape(side, patch_size, side, patch_size).any(axis=(1, 3))


def generate(
    out: Path,
    *,
    images_per_class: int,
    res: int = REFERENCE_RES,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write class folders `train`, `val` and `test` of PNG files, 70, 10 and 20 % of each class.

    The same arguments give the same files. The folder appears complete or not at all.

    Args:
        out: a new or empty folder.
        images_per_class: number of images per class, over all three splits.
        res: height and width in pixels.
        seed: random seed of the images.
        on_progress: called with the number of images written and the total.

    Raises:
        InvalidInput: if there are too few images for three splits, the resolution is no multiple of 16 from 64 on, the
            seed is negative, or the folder is not empty.
    """
    check_counts(images_per_class)
    check_seed(seed)
    if not 64 <= res <= LARGEST_RES or res % 16:
        raise InvalidInput(f"res must be a multiple of 16, at least 64 and at most {LARGEST_RES}, got {res}.")
    with new_folder(out) as folder:
        plan = list(planned(images_per_class))
        for done, (split, label, index) in enumerate(plan, 1):
            path = folder / split / CLASSES[label] / f"{CLASSES[label]}_{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_example(seed, label, index, res).pixels).save(path, compress_level=1)
            on_progress(done, len(plan))


def check_counts(images_per_class: int) -> None:
    """Refuse a number of images that leaves a split without any, or is a slip of the keyboard.

    Raises:
        InvalidInput: if it is.
    """
    if images_per_class < MIN_IMAGES_PER_CLASS:
        raise InvalidInput(
            f"images_per_class must be at least {MIN_IMAGES_PER_CLASS}, to have some in every split, "
            f"got {images_per_class}."
        )
    if images_per_class > MOST_IMAGES_PER_CLASS:
        raise InvalidInput(f"images_per_class must be at most {MOST_IMAGES_PER_CLASS}, got {images_per_class}.")


def planned(images_per_class: int) -> Iterator[tuple[Split, int, int]]:
    """Yield split, label and index of every image that `generate` writes."""
    num_val, num_test = images_per_class // 10, images_per_class // 5
    for label in range(len(CLASSES)):
        for index in range(images_per_class):
            from_end = images_per_class - 1 - index
            yield "test" if from_end < num_test else "val" if from_end < num_test + num_val else "train", label, index
