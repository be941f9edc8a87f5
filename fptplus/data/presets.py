"""The eight datasets of the paper by name: what they are, how the official code trains on them, how to prepare them.

Class counts, normalisation and learning rates come from the official code's dataset configurations, weight decay from
its optimizer. Class names, the wording of licences and expected counts are ours; the paper itself states 662 images for
the smallest dataset, 12,522 for the largest and 1,748 for Messidor-2.
"""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from fptplus.errors import InvalidInput
from fptplus.paper_training import MESSIDOR2_GRADED_IMAGES

from . import layouts
from .layouts import Layout, RawImage
from .new_folder import new_folder
from .splits import TEST_SHARE, VAL_SHARE, random_split

SPLIT_SEED = 0
"""Random seed of the splits that `prepare` draws (ours; the paper's are not published)."""

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One dataset of the paper."""

    name: str
    title: str
    """Title as the paper prints it."""

    classes: tuple[str, ...]
    """Names of the class folders, in the order of the class indices."""

    mean: Triple
    std: Triple
    """Mean and standard deviation of red, green and blue, with images in 0 to 1 (official code)."""

    lr: float
    """Learning rate of FPT+ (official code)."""

    weight_decay: float = 0.1
    """Weight decay of AdamW (official code)."""

    source_url: str
    licence: str
    """Terms as far as known; the source's own text is decisive."""

    expected_images: int
    """Number of labelled images in a complete download."""

    layout: Layout
    """Function that lists the labelled images of the raw download."""

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def prepare(self, raw: Path, out: Path) -> list[str]:
        """Arrange a raw download as class folders `train/ val/ test/`; raw files are linked or copied, never altered.

        Official splits are kept. A download without splits is split 70/10/20 at random, by patient if it names
        patients. ISIC 2016 publishes no validation split, and gets an eighth of its training images for it.

        Args:
            raw: the folder that the download was unpacked into.
            out: a new or empty folder. It appears complete or not at all.

        Returns:
            Sentences about what was done, and what is not as expected.

        Raises:
            InvalidInput: if part of the download is missing or `out` is not empty.
        """
        if not raw.is_dir():
            raise InvalidInput(f"raw must be the folder that {self.title} was unpacked into, {raw} is no folder.")
        listed = list(self.layout(raw))
        for image in listed:
            self._check(image, raw)
        images = [image for image in listed if image.path.is_file()]
        if not images:
            raise InvalidInput(
                f"raw must hold the images of {self.title}, {raw} holds none of the {len(listed)} listed."
            )
        with new_folder(out) as folder:
            for image in _with_splits(images):
                _link(image.path.resolve(), folder / str(image.split) / image.class_name / image.name)
        return self._report(images, len(listed) - len(images), out)

    def _check(self, image: RawImage, raw: Path) -> None:
        """Refuse what a download's tables say where it would lead out of the folders, or is no class."""
        is_below = Path(os.path.normpath(image.path)).is_relative_to(os.path.normpath(raw))
        if not is_below or image.name in ("", ".", "..") or set(image.name) & set("/\\\0"):
            raise InvalidInput(
                f"every image that {self.title} lists must be a file below {raw}, {str(image.path)!r} is not; "
                "unpack the download again."
            )
        if image.class_name not in self.classes:
            raise InvalidInput(
                f"classes of {self.title} must be {', '.join(self.classes)}, {image.name} has {image.class_name!r}; "
                "unpack the download again."
            )

    def _report(self, images: list[RawImage], num_missing: int, out: Path) -> list[str]:
        counts = Counter(image.class_name for image in images)
        per_class = ", ".join(f"{counts[name]} {name}" for name in self.classes)
        sentences = [f"{self.title}: {len(images)} images in {out} ({per_class})."]
        if num_missing:
            sentences.append(f"{num_missing} images that the labels list are not in the download.")
        if len(images) != self.expected_images:
            sentences.append(
                f"A complete download has {self.expected_images} labelled images, this one {len(images)}; "
                "results will not be comparable with others'."
            )
        return sentences


def _with_splits(images: Sequence[RawImage]) -> list[RawImage]:
    """Return the images, each with a split."""
    given = {image.split for image in images}
    if given == {None}:
        return _assign(images, VAL_SHARE, TEST_SHARE)
    if "val" in given:
        return list(images)
    training = [image for image in images if image.split == "train"]
    others = [image for image in images if image.split != "train"]
    return _assign(training, VAL_SHARE / (1 - TEST_SHARE), 0.0) + others


def _assign(images: Sequence[RawImage], val_share: float, test_share: float) -> list[RawImage]:
    """Draw a random split for every group of images, stratified by the group's alphabetically last class."""
    groups: dict[str, list[RawImage]] = {}
    for image in images:
        groups.setdefault(image.group or image.name, []).append(image)
    class_names = [max(image.class_name for image in group) for group in groups.values()]
    order = sorted(set(class_names))
    labels = [order.index(name) for name in class_names]
    splits = random_split(labels, SPLIT_SEED, val_share=val_share, test_share=test_share)
    return [
        replace(image, split=split) for group, split in zip(groups.values(), splits, strict=True) for image in group
    ]


def _link(source: Path, target: Path) -> None:
    """Make a hard link, or a copy if the file system has no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        raise InvalidInput(
            f"each image must have a name of its own, {source} would overwrite another as {target.name}."
        )
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def find_preset(name: str) -> Preset:
    """Return the preset of a name.

    Raises:
        InvalidInput: if there is none; the message lists the known names.
    """
    if name not in PRESETS:
        near = get_close_matches(name, PRESETS, n=1)
        raise InvalidInput(
            f"preset must be one of {', '.join(PRESETS)}, got {name!r}"
            + (f"; did you mean {near[0]}?" if near else ".")
        )
    return PRESETS[name]


def _grey(mean: float, std: float) -> dict[str, Triple]:
    return {"mean": (mean,) * 3, "std": (std,) * 3}


_AT_THE_SOURCE = "not restated here; read the terms at the source"

_ALL = (
    Preset(
        name="ddr",
        title="DDR",
        classes=layouts.DR_GRADES,
        mean=(0.423737496137619, 0.2609460651874542, 0.128403902053833),
        std=(0.29482534527778625, 0.20167365670204163, 0.13668020069599152),
        lr=5e-4,
        source_url="https://github.com/nkicsl/DDR-dataset",
        licence=_AT_THE_SOURCE,
        expected_images=12_522,
        layout=layouts.ddr,
    ),
    Preset(
        name="messidor2",
        title="Messidor-2",
        classes=layouts.DR_GRADES,
        mean=(0.48436370491981506, 0.2238118201494217, 0.07583174854516983),
        std=(0.2939208149909973, 0.14721707999706268, 0.06350880116224289),
        lr=2e-4,
        source_url="https://www.adcis.net/en/third-party/messidor2/ and, for the grades, "
        "https://www.kaggle.com/datasets/google-brain/messidor2-dr-grades",
        licence="on request from the consortium, for research; " + _AT_THE_SOURCE,
        expected_images=MESSIDOR2_GRADED_IMAGES,
        layout=layouts.messidor2,
    ),
    Preset(
        name="isic2018",
        title="ISIC 2018",
        classes=layouts.ISIC2018_CLASSES,
        mean=(0.7635627388954163, 0.5466075539588928, 0.5707483291625977),
        std=(0.1404101848602295, 0.15191355347633362, 0.1692335605621338),
        lr=1e-4,
        source_url="https://challenge.isic-archive.com/landing/2018/",
        licence="CC BY-NC 4.0",
        expected_images=11_720,  # 10,015 + 193 + 1,512
        layout=layouts.isic2018,
    ),
    Preset(
        name="isic2016",
        title="ISIC 2016",
        classes=("benign", "malignant"),
        mean=(0.7243882417678833, 0.6187167167663574, 0.5664605498313904),
        std=(0.16384567320346832, 0.17090138792991638, 0.19106049835681915),
        lr=5e-3,
        source_url="https://challenge.isic-archive.com/landing/2016/",
        licence=_AT_THE_SOURCE,
        expected_images=1_279,  # 900 + 379
        layout=layouts.isic2016,
    ),
    Preset(
        name="ddsm",
        title="DDSM",
        classes=("Benign", "Cancer", "Normal"),
        **_grey(0.2026701271533966, 0.22466830909252167),
        lr=1e-3,
        source_url="https://ardisdataset.github.io/MiniDDSM/",
        licence=_AT_THE_SOURCE,
        expected_images=7_808,  # assumed: every view of Mini-DDSM's 1,952 cases
        layout=layouts.ddsm,
    ),
    Preset(
        name="cmmd",
        title="CMMD",
        classes=("Benign", "Malignant"),
        **_grey(0.16735267639160156, 0.18016798794269562),
        lr=5e-5,
        source_url="https://www.cancerimagingarchive.net/collection/cmmd/",
        licence="CC BY 4.0",
        expected_images=3_744,  # assumed: two views of each breast that the table lists; 5,202 files in all
        layout=layouts.cmmd,
    ),
    Preset(
        name="covid",
        title="COVID",
        classes=("covid", "normal", "virus"),
        mean=(0.498341828584671, 0.4986386299133301, 0.49894729256629944),
        std=(0.2426202893257141, 0.24259139597415924, 0.242642343044281),
        lr=1e-4,
        source_url="https://www.kaggle.com/datasets/sid321axn/covid-cxr-image-dataset-research",
        licence=_AT_THE_SOURCE,
        expected_images=1_823,  # 536 + 668 + 619
        layout=layouts.covid,
    ),
    Preset(
        name="chncxr",
        title="CHNCXR",
        classes=("normal", "tuberculosis"),
        **_grey(0.6105489, 0.25847816),
        lr=5e-4,
        source_url="http://archive.nlm.nih.gov/repos/chestImages.php",
        licence=_AT_THE_SOURCE,
        expected_images=662,  # 326 + 336
        layout=layouts.chncxr,
    ),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}


def preset_of_normalization(mean: Sequence[float], std: Sequence[float]) -> Preset | None:
    """The preset that a store was made with, by its mean and standard deviation, which no two have; None if none.

    A store keeps these to their last digit, and does not keep the preset's name.
    """
    named = (tuple(mean), tuple(std))
    return next((preset for preset in _ALL if (preset.mean, preset.std) == named), None)
