"""Decode an image to 8-bit RGB: JPEG, PNG, TIFF and BMP by Pillow, DICOM by pydicom; the content decides which.

    file, Pillow image or array ─ decode ─┬─ RGB ───────────────────────────────┬─ RGB in 8 bits
                                          └─ deep grey ─ the data set's range ──┘

Deep greys are scaled by the rule of their data set (`greys`). TIFFs in which white is zero are inverted, so that denser
tissue is brighter there too. Transparency is laid on black, and the orientation that a camera noted (EXIF) is applied.

From a TIFF or DICOM file with several frames, the middle one is read, or the one that `path#frame` names, from 1.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fptplus.errors import InvalidInput

from .dicom import DICOM_SUFFIXES, brings_its_own_range, decode_dicom, is_dicom, num_frames, read_dicom_header
from .greys import EACH_BY_ITSELF, GreyImage, GreyScale

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".bmp", *DICOM_SUFFIXES)
"""Endings, in lower case, of files taken as images whatever their content; an unreadable one is reported as such."""

DECODING = 2
"""Version of this decoding. Version 1 showed DICOM's padding, applied tables and windows differently, and could turn a
TIFF's white black."""

HEAD_BYTES = 136
"""Number of bytes read from a file to tell its kind: DICOM's mark comes after 128 bytes."""

ImageSource = str | Path | Image.Image | np.ndarray
"""Forms an image can be given in: a file, a Pillow image, or (H, W) grey of any depth or (H, W, 3) RGB in uint8."""

_PICTURE_MARKS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PHOTOMETRIC, _BITS_PER_SAMPLE, _SAMPLE_FORMAT, _GDAL_NODATA = 262, 258, 339, 42113
"""Numbers of TIFF tags."""


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What a file's header says, before its pixels are decoded."""

    num_frames: int = 1
    """Number of frames, of which one must be chosen."""

    needs_range: bool = False
    """Whether the image's greys are scaled by the rule of the data set."""

    is_deep_colour: bool = False
    """Whether the image is in colour with 16 bits per channel, of which the upper 8 are kept."""

    is_dicom: bool = False
    is_readable: bool = True
    """Whether the header could be read; the pixels may still be damaged."""


def is_image_file(path: Path) -> bool:
    """Return whether the file is not hidden, and its ending or, failing that, its content is that of an image."""
    if path.name.startswith("."):
        return False
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    head = _head(path)
    return is_picture(head) or is_dicom(head)


def is_dicom_file(path: Path) -> bool:
    """Return whether an image file is DICOM; a file with the ending of another kind is taken as that, unopened."""
    suffix = path.suffix.lower()
    return (suffix in DICOM_SUFFIXES or suffix not in IMAGE_SUFFIXES) and _reads_as_dicom(_head(path), path)


def is_endless(path: Path) -> bool:
    """Return whether reading from a path may never end, as from a pipe or a device."""
    try:
        return path.exists() and not (path.is_file() or path.is_dir())
    except (OSError, ValueError):
        return False


def is_picture(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is JPEG, PNG, TIFF or BMP."""
    is_bmp = head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"
    return is_bmp or head.startswith(_PICTURE_MARKS)


def split_frame(path: Path) -> tuple[Path, int | None]:
    """Split `path#frame` into the file and the frame, counted from 1; None if the path names no frame."""
    stem, mark, frame = path.name.rpartition("#")
    if not mark or not stem or not (frame.isascii() and frame.isdecimal()) or path.is_file():
        return path, None
    return path.with_name(stem), int(frame)


def read_image(path: Path, greys: GreyScale = EACH_BY_ITSELF) -> Image.Image:
    """Decode a file to RGB.

    Args:
        path: a file, or `path#frame`.
        greys: rule of the data set for deep greys; by default the image is scaled by its own values.

    Raises:
        InvalidInput: if the file is missing, empty, truncated or not an image, or has no such frame.
    """
    return to_rgb(decode(path), greys)


def to_rgb(decoded: Image.Image | GreyImage, greys: GreyScale) -> Image.Image:
    """Convert what `decode` returns to RGB."""
    return Image.fromarray(decoded.to_8_bit(greys)).convert("RGB") if isinstance(decoded, GreyImage) else decoded


def decode(source: ImageSource) -> Image.Image | GreyImage:
    """Decode an image to RGB or deep grey.

    Raises:
        InvalidInput: if it is not an image, or an array whose shape or type no image has.
    """
    if isinstance(source, np.ndarray):
        return _decode_array(source)
    if isinstance(source, Image.Image):
        try:
            return _decode_pillow(source)
        except OSError as error:
            raise InvalidInput(f"the image cannot be decoded, it is truncated ({error}).") from error
    path, frame = split_frame(Path(source))
    if is_endless(path):
        raise InvalidInput(f"image {path} must be an ordinary file, it is a device or a pipe.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"image {path} cannot be read: {error.strerror or error}.") from error
    if not content:
        raise InvalidInput(f"image {path} is empty (0 bytes); remove it or copy it again.")
    if _reads_as_dicom(content[:HEAD_BYTES], path):
        return decode_dicom(content, path, lambda count: _chosen(frame, range(count), count, path))
    return _decode_picture(content, path, frame)


def inspect_image(path: Path) -> ImageFacts:
    """Return what the header of a file says; a file that is not an image is said to be unreadable.

    Args:
        path: a file, or `path#frame`.
    """
    path, frame = split_frame(path)
    if is_endless(path):
        return ImageFacts(is_readable=False)
    try:
        if _reads_as_dicom(_head(path), path):
            return _dicom_facts(path, frame)
        with Image.open(path) as image:
            _check_frame(frame, getattr(image, "n_frames", 1), path)
            pages = 1 if frame is not None or image.format != "TIFF" else len(_pages(image))
            is_deep_colour = not _is_deep(image) and any(";16" in str(tile[3]) for tile in image.tile)
            return ImageFacts(num_frames=pages, needs_range=_is_deep(image), is_deep_colour=is_deep_colour)
    except Exception:  # whatever is wrong with it, decoding reports it by name
        return ImageFacts(is_readable=False)


def count_frames(source: ImageSource) -> int:
    """Return the number of frames, of which one must be chosen."""
    if isinstance(source, np.ndarray):
        return 1
    if isinstance(source, Image.Image):
        return getattr(source, "n_frames", 1) if source.format == "TIFF" else 1
    return inspect_image(Path(source)).num_frames


def _dicom_facts(path: Path, frame: int | None) -> ImageFacts:
    header = read_dicom_header(path)
    frames = num_frames(header)
    _check_frame(frame, frames, path)
    shown = frames // 2 if frame is None else frame - 1
    return ImageFacts(
        num_frames=frames if frame is None else 1,
        needs_range=not brings_its_own_range(header, shown),
        is_dicom=True,
        is_readable="Rows" in header,
    )


def _head(path: Path) -> bytes:
    """Return the beginning of a file; empty if it cannot be read."""
    if is_endless(path):
        return b""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _reads_as_dicom(head: bytes, path: Path) -> bool:
    """Return whether a file is to be read as DICOM, by its content or, if that is inconclusive, by its ending."""
    return is_dicom(head) or (path.suffix.lower() in DICOM_SUFFIXES and not is_picture(head))


def _decode_picture(content: bytes, path: Path, frame: int | None) -> Image.Image | GreyImage:
    try:
        image = Image.open(io.BytesIO(content))
        pages = _pages(image) if image.format == "TIFF" else [0]
        image.seek(_chosen(frame, pages, getattr(image, "n_frames", 1), path))
        return _decode_pillow(image, bits=_png_bits(content))
    except InvalidInput:
        raise
    except UnidentifiedImageError as error:
        raise InvalidInput(
            f"image {path} cannot be decoded, it is truncated or no image (of no known kind)."
        ) from error
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInput(f"image {path} cannot be decoded, it is truncated or no image ({reason}).") from error


def _chosen(frame: int | None, candidates: Sequence[int], count: int, path: Path) -> int:
    """Return the frame to read, counted from 0: the one named, counted from 1, or the middle candidate."""
    _check_frame(frame, count, path)
    return candidates[len(candidates) // 2] if frame is None else frame - 1


def _check_frame(frame: int | None, count: int, path: Path) -> None:
    if frame is not None and not 1 <= frame <= count:
        raise InvalidInput(f"frame must be 1 to {count}, as many as {path} holds, got #{frame}.")


def _pages(image: Image.Image) -> list[int]:
    """Return the indices of a TIFF's largest pages: smaller ones are previews, or levels of a pyramid."""
    sizes = []
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        sizes.append(image.size)
    image.seek(0)
    largest = max(sizes, key=lambda size: size[0] * size[1])
    return [page for page, size in enumerate(sizes) if size == largest]


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _decode_pillow(image: Image.Image, bits: int | None = None) -> Image.Image | GreyImage:
    """Decode a Pillow image of any mode; `bits` is the depth that its file declares."""
    tags = getattr(image, "tag_v2", {})
    image.load()
    image = ImageOps.exif_transpose(image)
    if _is_deep(image):
        return _deep_grey(np.asarray(image), tags, bits)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image.convert("RGB")


def _deep_grey(values: np.ndarray, tags, bits: int | None) -> GreyImage:
    (declared,) = tags.get(_BITS_PER_SAMPLE, (None,))[:1]
    if declared == 32 and values.dtype.kind == "i" and tags.get(_SAMPLE_FORMAT, (1,))[:1] == (1,):
        values = values.view(np.uint32)  # Pillow has no unsigned 32-bit mode
    nodata = _number(tags.get(_GDAL_NODATA))
    return GreyImage(
        values=values.astype(values.dtype.newbyteorder("=")),
        kind="real" if values.dtype.kind == "f" else "integer",
        padding=None if nodata is None else values == nodata,
        white_is_zero=tags.get(_PHOTOMETRIC) == 0,
        bits=declared if declared is not None and declared < 16 else bits,
    )


def _number(text) -> float | None:
    try:
        return float(str(text).strip("\0 "))
    except ValueError:
        return None


def _png_bits(content: bytes) -> int | None:
    """Return the significant bits of a PNG's grey (chunk sBIT); None if it has no such chunk."""
    if not content.startswith(b"\x89PNG"):
        return None
    at = 8
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        if kind == b"sBIT" and length == 1 and 1 <= content[at + 8] <= 16:
            return content[at + 8]
        if kind == b"IDAT":
            return None
        at += 12 + length
    return None


def _decode_array(values: np.ndarray) -> Image.Image | GreyImage:
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    is_grey, is_colour = values.ndim == 2, values.ndim == 3 and values.shape[2] == 3
    if values.size and values.dtype == np.uint8 and (is_grey or is_colour):
        return Image.fromarray(np.ascontiguousarray(values)).convert("RGB")
    if values.size and is_grey and values.dtype.kind in "iuf":
        return GreyImage(values=values, kind="real" if values.dtype.kind == "f" else "integer")
    raise InvalidInput(
        f"an image as an array must be (H, W) of numbers or (H, W, 3) of uint8, got {values.shape} of {values.dtype}."
    )


@dataclass(frozen=True)
class FileReader:
    """Reader of examples whose names are paths under a root, or `path#frame`."""

    root: Path
    greys: GreyScale = EACH_BY_ITSELF
    """Rule of the data set for deep greys."""

    def __call__(self, example) -> Image.Image:
        return read_image(self.path(example), self.greys)

    def path(self, example) -> Path:
        """Return the path of the example's file, with its frame if it names one."""
        return self.root / example.name

    def file_of(self, example) -> Path:
        """The example's file."""
        return split_frame(self.path(example))[0]
