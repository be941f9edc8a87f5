"""Look at all images of a data set before the first is preloaded, to find the one rule for scaling deep greys.

For most images the header is enough; deep grey ones are decoded. The rule is determined once: an unfinished store keeps
the one it was begun with.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fptplus.data import ImageDataset
from fptplus.data.doubts import counted
from fptplus.data.greys import (
    EACH_BY_ITSELF,
    GREY_KINDS,
    KIND_NAMES,
    Extent,
    GreyImage,
    GreyKind,
    GreyRange,
    GreyScale,
    range_of,
)
from fptplus.data.images import DECODING, FileReader, ImageFacts, decode, inspect_image
from fptplus.errors import InvalidInput

from .manifest import MANIFEST, StoreManifest
from .writer import settings_of_store

LEAST_SHARE_USED = 1 / 8
"""Share of a range that half of the images must reach into; otherwise they come out nearly black."""


@dataclass(frozen=True)
class GreySurvey:
    """The rule of a data set, and what a user must know about it."""

    greys: GreyScale
    notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    """Names of images that preloading will not be able to read; damaged pixels of 8-bit images show only later."""


@dataclass(frozen=True)
class _Seen:
    """What was found out about one file."""

    name: str
    facts: ImageFacts
    kind: GreyKind | None = None
    extent: Extent | None = None
    is_readable: bool = True


def find_greys(
    dataset: ImageDataset, out: Path, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> GreySurvey:
    """Find the rule for deep greys of a data set, or take the one of its finished or unfinished store.

    Args:
        dataset: the data set whose files are looked at; unreadable ones are left to preloading.
        out: the folder of the store.
        on_progress: called with the number of images looked at and the total.

    Raises:
        InvalidInput: if the store was begun by an earlier version, which scaled each image by its own values.
    """
    if not isinstance(dataset.read, FileReader):
        return GreySurvey(EACH_BY_ITSELF)
    is_earlier, known = _begun_with(out)
    if known:
        return GreySurvey(GreyScale.from_plain(known))
    seen = _look_at_all(dataset, on_progress)
    survey = summary_of(seen)
    if is_earlier and (survey.greys.plain() or any(image.facts.is_dicom for image in seen)):
        raise InvalidInput(
            f"{out} must be begun with one rule for all grey values, it is of an earlier version, which scaled each "
            "image by itself; preload into another folder."
        )
    return survey


def _begun_with(out: Path) -> tuple[bool, dict | None]:
    """Return whether the finished or unfinished store there is of an earlier version, and the ranges it uses."""
    if (out / MANIFEST).exists():
        manifest = StoreManifest.read(out)
        return manifest.decoding < DECODING, manifest.greys.plain()
    begun = settings_of_store(out)
    return bool(begun) and "greys" not in begun, begun.get("greys")


def _look_at_all(dataset: ImageDataset, on_progress: Callable[[int, int], None]) -> list[_Seen]:
    seen, total = [], len(dataset.examples)
    with ThreadPoolExecutor(thread_name_prefix="survey") as pool:
        names = [example.name for example in dataset.examples]
        for found in pool.map(_look_at, names, map(dataset.read.path, dataset.examples)):
            seen.append(found)
            on_progress(len(seen), total)
    return seen


def _look_at(name: str, path: Path) -> _Seen:
    facts = inspect_image(path)
    if not (facts.needs_range or facts.is_deep_colour):
        return _Seen(name, facts, is_readable=facts.is_readable)
    try:
        decoded = decode(path)
    except InvalidInput:  # preloading stops at it, or skips it
        return _Seen(name, facts, is_readable=False)
    if isinstance(decoded, GreyImage):
        return _Seen(name, facts, decoded.kind, decoded.extent())
    pixels = np.asarray(decoded)
    return _Seen(name, facts, None, Extent(low=float(pixels.min()), high=float(pixels.max())))


def summary_of(seen: Sequence[_Seen]) -> GreySurvey:
    """Return the rule that fits all images, and what to say about it."""
    unreadable = tuple(image.name for image in seen if not image.is_readable)
    seen = [image for image in seen if image.is_readable]
    ranges, notes = {}, [*_on_frames(seen), *_on_mixtures(seen)]
    for kind in GREY_KINDS:
        images = [image for image in seen if image.kind == kind and image.extent is not None]
        if images:
            found = ranges[kind] = range_of(kind, [image.extent for image in images])
            what = f"{KIND_NAMES[kind]} ({len(images):,})"
            notes.append(f"{what}: {found.low:g} … {found.high:g} become black … white")
            notes += _on_use(images, found, KIND_NAMES[kind])
    colours = [image for image in seen if image.facts.is_deep_colour and image.extent is not None]
    notes += _on_use(colours, GreyRange(0, 255), "colour images of 16 bits") if colours else []
    return GreySurvey(GreyScale(**ranges), tuple(notes), unreadable)


def _on_use(images: Sequence[_Seen], limits: GreyRange, what: str) -> list[str]:
    """Warn if half of the images use little of the range: there is an odd image, or values are not deep at all."""
    width = limits.high - limits.low
    if width == 0:
        return [f"all {what} have the one value {limits.low:g} and are black"]
    used = statistics.median((image.extent.high - limits.low) / width for image in images)
    if used >= LEAST_SHARE_USED:
        return []
    brightest = max(images, key=lambda image: image.extent.high)
    return [
        f"half of the {what} use no more than {used:.1%} of their range and are nearly black; "
        f"look at the brightest, {brightest.name}, which reaches {brightest.extent.high:g}"
    ]


def _on_frames(seen: Sequence[_Seen]) -> list[str]:
    several = [image for image in seen if image.facts.num_frames > 1]
    if not several:
        return []
    first = several[0]
    return [
        f"several frames in {counted(len(several), 'file')} ({first.name}: {first.facts.num_frames}): "
        "the middle one is read; name another in a CSV as path#frame, counted from 1"
    ]


def _on_mixtures(seen: Sequence[_Seen]) -> list[str]:
    """Warn of images of one data set that become grey in different ways, and may differ for that reason alone."""
    sentences = []
    pictures = Counter(image.facts.needs_range for image in seen if not image.facts.is_dicom)
    if len(pictures) == 2:
        sentences.append(
            f"deeper than 8 bits: {counted(pictures[True], 'image')}, of 8 bits: {pictures[False]:,}; "
            "check that this does not give a class away"
        )
    dicom = Counter(image.facts.needs_range for image in seen if image.facts.is_dicom)
    if len(dicom) == 2:
        sentences.append(
            f"window, table or colour in {counted(dicom[False], 'DICOM file')}, none in {dicom[True]:,}: "
            "the latter are scaled by one range"
        )
    depths = sorted({image.extent.bits for image in seen if image.extent is not None and image.extent.bits})
    if len(depths) > 1:
        sentences.append(
            f"files declare different depths, {', '.join(map(str, depths))} bits: all are scaled by the largest"
        )
    return sentences
