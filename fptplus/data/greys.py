"""Grey values deeper than 8 bits become 8-bit by one rule for a whole data set, so that equal values stay equal.

    whole numbers    0 … 2^bits - 1 to 0 … 255; bits as the files declare them, else what the largest value needs
    real numbers     least … largest finite value of all images
    DICOM            least … largest value of all images, of those files that bring no window or look-up table

Padding, NaN and infinities stay out of the range. If no rule is known, an image is scaled by its own values.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np

GreyKind = Literal["integer", "real", "dicom"]
GREY_KINDS: tuple[GreyKind, ...] = get_args(GreyKind)

KIND_NAMES: dict[GreyKind, str] = {
    "integer": "grey images deeper than 8 bits",
    "real": "images of real numbers",
    "dicom": "DICOM images without a window",
}

DEPTHS = (8, 10, 12, 14, 16)
"""Bit depths that a data set of whole numbers may have; the smallest that holds its largest value is assumed."""

DEPTHS_ALONE = (12, 16)
"""Bit depths of an image without a data set; stores of earlier versions scaled each of their images by these."""

SLACK = 0.05
"""Share of a range by which new images may lie outside it without a warning: they are hardly clipped."""

MAX_16_BIT = 2**16 - 1


@dataclass(frozen=True)
class GreyRange:
    """The value that becomes black, and the value that becomes white."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The extreme values of one image, from which a data set's range is computed."""

    low: float
    high: float
    bits: int | None = None
    """Bit depth that the file declares; None if it does not."""


@dataclass(frozen=True, kw_only=True)
class GreyScale:
    """The rule of a data set: a range for each kind of deep image, None for kinds that it does not contain."""

    integer: GreyRange | None = None
    real: GreyRange | None = None
    dicom: GreyRange | None = None

    def plain(self) -> dict[str, list[float]] | None:
        """Return the ranges by kind, ready for JSON; None if the data set has no deep image."""
        ranges = {field.name: getattr(self, field.name) for field in fields(self)}
        return {kind: [found.low, found.high] for kind, found in ranges.items() if found is not None} or None

    @classmethod
    def from_plain(cls, ranges: dict[str, list[float]] | None) -> "GreyScale":
        """Do the reverse of `plain`; None, as in manifests of earlier versions, gives a scale without any range."""
        return cls(**{kind: GreyRange(*found) for kind, found in (ranges or {}).items()})


EACH_BY_ITSELF = GreyScale()
"""Scale without ranges: every deep image is scaled by its own values."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GreyImage:
    """A deep grey image, before it is scaled."""

    values: np.ndarray
    """Grey values (H, W)."""

    kind: GreyKind
    padding: np.ndarray | None = None
    """Mask (H, W), true where there is padding instead of image; None if there is no padding."""

    white_is_zero: bool = False
    bits: int | None = None
    """Bit depth that the file declares; None if it does not."""

    def extent(self) -> Extent | None:
        """Return the least and largest value of the image itself; None if it has none."""
        shown = np.isfinite(self.values)
        if self.padding is not None:
            shown &= ~self.padding
        values = self.values[shown]
        return Extent(low=float(values.min()), high=float(values.max()), bits=self.bits) if values.size else None

    def own_range(self) -> GreyRange:
        """Return the range to use for the image on its own."""
        extent = self.extent()
        if extent is None:
            return GreyRange(0.0, 1.0)
        shallow = self.values.dtype.kind == "i" and extent.high <= 255 and self.bits is None
        return GreyRange(extent.low, extent.high) if shallow else range_of(self.kind, [extent], DEPTHS_ALONE)

    def doubts(self, scale: GreyScale) -> list[str]:
        """Return reasons to doubt that a scale made from other images fits this one."""
        limits, extent = getattr(scale, self.kind), self.extent()
        if limits is None:
            return [f"{KIND_NAMES[self.kind]} were not in the training data, or scaled one by one: so is this one"]
        slack = (limits.high - limits.low) * SLACK
        if extent is None or (limits.low - slack <= extent.low and extent.high <= limits.high + slack):
            return []
        return [
            f"an image of values {extent.low:g} … {extent.high:g} is outside the {limits.low:g} … {limits.high:g} "
            "of the training data, and clipped"
        ]

    def to_8_bit(self, scale: GreyScale) -> np.ndarray:
        """Scale to uint8 (H, W); padding and NaN become black, values outside the range become black or white."""
        limits = getattr(scale, self.kind) or self.own_range()
        unit = (self.values.astype(np.float64) - limits.low) / ((limits.high - limits.low) or 1.0)
        unit = 1 - unit if self.white_is_zero else unit
        empty = np.isnan(unit)
        if self.padding is not None:
            empty |= self.padding
        return to_uint8(np.where(empty, 0.0, unit))


def to_uint8(unit: np.ndarray) -> np.ndarray:
    """Convert 0 to 1 to 0 to 255, rounded and clipped."""
    return (unit.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def range_of(kind: GreyKind, extents: Iterable[Extent], depths: tuple[int, ...] = DEPTHS) -> GreyRange:
    """Return the range that covers all the given images.

    Args:
        kind: kind of the images.
        extents: the extent of each image, at least one.
        depths: bit depths to choose from for whole numbers whose files declare none.
    """
    extents = list(extents)
    low, high = min(extent.low for extent in extents), max(extent.high for extent in extents)
    if kind == "integer" and low >= 0 and high <= MAX_16_BIT:
        return GreyRange(0.0, float(2 ** max(_depth(extent, depths) for extent in extents) - 1))
    return GreyRange(low, high)


def _depth(extent: Extent, depths: tuple[int, ...]) -> int:
    """Return the bit depth of one image: as declared, unless its values need more."""
    needed = int(extent.high).bit_length()
    if extent.bits is not None:
        return max(extent.bits, needed)
    return next(depth for depth in depths if depth >= needed)
