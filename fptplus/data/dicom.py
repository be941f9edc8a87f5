"""Decode a DICOM image as a viewer shows it (PS3.3, C.7.6.3 and C.11): modality, window or look-up table, polarity.

    stored values ─ modality LUT, or slope and intercept ─┬─ VOI LUT of the file ──────────────┐
                                                          ├─ first usable window of the file ──┼─ MONOCHROME1 inverted
                                                          └─ neither: the data set's range ────┘

A look-up table is scaled by its own depth. Padding is black and belongs to no range. For an enhanced file, the frame's
own window and slope are used.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pydicom
from PIL import Image
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, get_decoder, pixel_array
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from fptplus.errors import InvalidInput

from .greys import GreyImage, to_uint8

DICOM_SUFFIXES = (".dcm", ".dicom")
EXTRA = "pip install 'fptplus-bench[dicom]'"
"""Command that installs the codecs for compressed files."""

ENCODINGS: dict[str, UID] = {
    "uncompressed": ExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG": JPEGBaseline8Bit,
    "JPEG of 12 bits": JPEGExtended12Bit,
    "lossless JPEG": JPEGLosslessSV1,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
    "HTJ2K": HTJ2KLossless,
}
"""One transfer syntax from each family, by the family's name."""

_MARK, _PREAMBLE_BYTES = b"DICM", 128
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_GROUP_LENGTH, _HEAD_BYTES = b"\x02\x00\x00\x00UL\x04\x00", 4096
"""The element that begins a file's meta information and tells its length; the latter names the transfer syntax."""

MAX_INFLATED_BYTES = 2**29
"""That a deflated file may unpack to."""

MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS
"""Most pixels in a frame; Pillow refuses other images beyond the same limit."""

_FRAME_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


def decodable_encodings() -> dict[str, bool]:
    """Return which families of transfer syntaxes can be decoded with the packages installed here."""
    return {name: _can_decode(syntax) for name, syntax in ENCODINGS.items()}


def _can_decode(syntax: UID) -> bool:
    """Return whether a codec is installed. Pillow claims to support 12-bit JPEG, but fails on it."""
    decoder = get_decoder(syntax)
    is_deep_jpeg = syntax == JPEGExtended12Bit
    return decoder.is_available and not (is_deep_jpeg and set(decoder.available_plugins) == {"pillow"})


def is_dicom(content: bytes) -> bool:
    """Return whether a file that begins with these 132 bytes or more is DICOM, with or without the preamble.

    Without the preamble a file begins with an element of group 2 or 8, in either byte order.
    """
    if _MARK in (content[:4], content[_PREAMBLE_BYTES : _PREAMBLE_BYTES + 4]):
        return True
    little, big = content[:2] in (b"\x02\x00", b"\x08\x00"), content[:2] in (b"\x00\x02", b"\x00\x08")
    if not (little or big) or len(content) < 8:
        return False
    is_explicit = content[4:6].isalpha() and content[4:6].isupper()
    order = "little" if little else "big"
    return is_explicit or (int.from_bytes(content[4:8], order) < 256 and int.from_bytes(content[2:4], order) < 256)


def read_dicom_header(path: Path) -> pydicom.Dataset:
    """Read everything before the pixels; empty if the file is not DICOM.

    Raises:
        OSError: if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return pydicom.dcmread(_with_preamble(file), stop_before_pixels=True, force=True)
    except OSError:
        raise
    except Exception:  # pydicom raises many kinds on damaged files; decoding reports them
        return pydicom.Dataset()


def _with_preamble(file: BinaryIO) -> BinaryIO:
    """The file, with the preamble that pydicom expects before a mark that stands at the very beginning.

    Raises:
        InvalidInput: if it is deflated, which pydicom unpacks at once, and would take too much memory.
    """
    _refuse_bomb(file)
    begins_with_mark = file.read(len(_MARK)) == _MARK
    file.seek(0)
    return io.BytesIO(bytes(_PREAMBLE_BYTES) + file.read()) if begins_with_mark else file


def _refuse_bomb(file: BinaryIO) -> None:
    """See that a deflated file unpacks to no more than MAX_INFLATED_BYTES; the file is read from its start again."""
    head = file.read(_HEAD_BYTES)
    if is_dicom(head) and _DEFLATED in head:
        content = head + file.read()
        begin = content.index(_MARK) + len(_MARK) if _MARK in content[: _PREAMBLE_BYTES + 4] else 0
        meta_bytes = content[begin + 8 : begin + 12] if content[begin:].startswith(_GROUP_LENGTH) else bytes(4)
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        with suppress(zlib.error):  # decoding tells of it
            packed = content[begin + 12 + int.from_bytes(meta_bytes, "little") :]
            if len(inflate.decompress(packed, MAX_INFLATED_BYTES + 1)) > MAX_INFLATED_BYTES:
                raise InvalidInput(f"it unpacks to more than {MAX_INFLATED_BYTES // 2**20} MiB")
    file.seek(0)


def holds_no_image(path: Path) -> bool:
    """Return whether a file is DICOM, but a report, plan, index or the like rather than an image."""
    header = read_dicom_header(path)
    kind = UID(header.get("SOPClassUID") or getattr(header, "file_meta", {}).get("MediaStorageSOPClassUID") or "")
    return "Rows" not in header and kind != "" and "Image" not in kind.name


def patient_of(path: Path) -> str | None:
    """Return the patient that a file names; None if it names none or cannot be read."""
    try:
        return str(read_dicom_header(path).get("PatientID") or "").strip() or None
    except Exception:  # a damaged file is reported when it is decoded
        return None


def num_frames(dataset: pydicom.Dataset) -> int:
    """Return the number of frames that a header states."""
    return int(dataset.get("NumberOfFrames") or 1)


def brings_its_own_range(dataset: pydicom.Dataset, frame: int) -> bool:
    """Return whether a header says how values become grey or colour, so that no range of the data set is needed."""
    if dataset.get("SamplesPerPixel", 1) > 1 or dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        return True
    facts = _with_frame_facts(dataset, frame)
    return _voi_lut(facts) is not None or _window(facts) is not None


def decode_dicom(content: bytes, path: Path, choose_frame: Callable[[int], int]) -> Image.Image | GreyImage:
    """Decode one frame: to RGB if the file says how it is shown, else to grey values that still need a range.

    Args:
        content: the whole file.
        path: the file's path, for error messages.
        choose_frame: function that returns the frame to decode, counted from 0, given the number of frames.

    Raises:
        InvalidInput: if the file is damaged, holds no image, or needs a codec that is not installed.
    """
    try:
        dataset = _read(content, path)
        if not any(name in dataset for name in _PIXELS):
            raise InvalidInput(f"DICOM image {path} cannot be decoded, it holds no pixels; remove it.")
        _check_codec(dataset, path)
        if (pixels := int(dataset.get("Rows") or 0) * int(dataset.get("Columns") or 0)) > MAX_PIXELS:
            raise InvalidInput(
                f"DICOM image {path} must have at most {MAX_PIXELS:,} pixels a frame, its header tells of {pixels:,}; "
                "copy it again or remove it."
            )
        frame = choose_frame(num_frames(dataset))
        stored, words = _stored(dataset, frame)
        facts = _with_frame_facts(dataset, frame)
        return _shown(facts, stored, _padding(words, facts))
    except InvalidInput:
        raise
    except Exception as error:  # pydicom raises as many kinds as its plugins do
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InvalidInput(
            f"DICOM image {path} cannot be decoded ({reason}); copy it again or remove it; if it is compressed {EXTRA}."
        ) from error


def _read(content: bytes, path: Path) -> pydicom.Dataset:
    """A file with or without preamble and meta information."""
    try:
        file = _with_preamble(io.BytesIO(content))
    except InvalidInput as error:
        raise InvalidInput(f"DICOM image {path} cannot be decoded, {error}; copy it again or remove it.") from error
    dataset = pydicom.dcmread(file, force=True)
    if dataset.file_meta.get("TransferSyntaxUID") is None:
        is_implicit, is_little = dataset.original_encoding
        plain = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = plain if is_little else pydicom.uid.ExplicitVRBigEndian
    return dataset


def _check_codec(dataset: pydicom.Dataset, path: Path) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise InvalidInput(f"DICOM image {path} is encoded as {syntax.name}, which is not supported.") from error
    if not decoder.is_available:
        needed = " or ".join(entry.partition("requires ")[2] for entry in decoder.missing_dependencies)
        raise InvalidInput(
            f"DICOM image {path} is encoded as {syntax.name}, its codec is not installed ({needed}); {EXTRA}."
        )


def _with_frame_facts(dataset: pydicom.Dataset, frame: int) -> pydicom.Dataset:
    """Return the header with an enhanced file's attributes of all frames, then of this one, moved to the top level."""
    groups = [*(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]]
    groups += (dataset.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    found = [item for group in groups for macro in _FRAME_MACROS for item in (group.get(macro) or [])[:1]]
    if not found:
        return dataset
    facts = pydicom.Dataset({element.tag: element for element in dataset if element.keyword not in _PIXELS})
    for element in (element for item in found for element in item):
        facts[element.tag] = element
    return facts


def _stored(dataset: pydicom.Dataset, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the stored values of a frame, and the words that hold them (PS3.5, 8.1.1).

    Words of uncompressed grey images may be wider than the values; the remaining bits may hold anything.
    """
    is_plain = not dataset.file_meta.TransferSyntaxUID.is_encapsulated and "PixelData" in dataset
    is_wider = dataset.get("BitsAllocated", 0) > max(dataset.get("BitsStored", 0), 7)
    if not (is_plain and is_wider and dataset.get("SamplesPerPixel", 1) == 1):
        stored = pixel_array(dataset, index=frame)
        return stored, stored
    words = pixel_array(dataset, index=frame, correct_unused_bits=False)
    width = words.dtype.itemsize * 8
    return (words << (width - 1 - dataset.HighBit)) >> (width - dataset.BitsStored), words


def _shown(facts: pydicom.Dataset, stored: np.ndarray, padding: np.ndarray | None) -> Image.Image | GreyImage:
    if facts.PhotometricInterpretation == "PALETTE COLOR":
        return Image.fromarray(_palette_colours(stored, facts)).convert("RGB")
    if stored.ndim == 3:
        return Image.fromarray(to_uint8(stored / (2**facts.BitsStored - 1))).convert("RGB")
    is_inverted = facts.PhotometricInterpretation == "MONOCHROME1"
    values = _modality_values(stored, facts)
    if (unit := _as_file_says(values, facts)) is None:
        return GreyImage(values=values, kind="dicom", padding=padding, white_is_zero=is_inverted)
    unit = 1 - unit if is_inverted else unit
    if padding is not None:
        unit = np.where(padding, 0.0, unit)
    return Image.fromarray(to_uint8(unit)).convert("RGB")


def _as_file_says(values: np.ndarray, facts: pydicom.Dataset) -> np.ndarray | None:
    """Scale values to 0 to 1 by the file's VOI look-up table, else its window; None if it has neither."""
    if (item := _voi_lut(facts)) is not None:
        first, entries = _lut(item.LUTDescriptor, item.LUTData)
        return _look_up(values, first, entries) / _full_scale(entries, item.LUTDescriptor[2])
    if (window := _window(facts)) is not None:
        return _windowed(values, *window, str(facts.get("VOILUTFunction") or "LINEAR"))
    return None


def _modality_values(stored: np.ndarray, facts: pydicom.Dataset) -> np.ndarray:
    """Convert stored values to the modality's unit (PS3.3, C.11.1)."""
    for item in (facts.get("ModalityLUTSequence") or [])[:1]:
        if item.get("LUTData") is not None:
            return _look_up(stored, *_lut(item.LUTDescriptor, item.LUTData))
    return stored * float(facts.get("RescaleSlope") or 1) + float(facts.get("RescaleIntercept") or 0)


def _padding(words: np.ndarray, facts: pydicom.Dataset) -> np.ndarray | None:
    """Return where there is padding (PS3.3, C.7.5.1.1.2), judged by whole words; None if the file declares none."""
    value = facts.get("PixelPaddingValue")
    if value in (None, ""):
        return None
    limit = facts.get("PixelPaddingRangeLimit")
    bounds = np.array([value, value if limit in (None, "") else limit], np.int64)
    low, high = sorted(bounds.astype(words.dtype))
    return (words >= low) & (words <= high)


def _voi_lut(facts: pydicom.Dataset) -> pydicom.Dataset | None:
    """Return the first item of the file's VOI look-up tables; None if there is none, or it is empty."""
    items = facts.get("VOILUTSequence") or []
    return items[0] if items and items[0].get("LUTData") is not None and items[0].get("LUTDescriptor") else None


def _window(facts: pydicom.Dataset) -> tuple[float, float] | None:
    """Return center and width of the first window whose width is above 0; None if there is none."""
    centers, widths = (_numbers(facts.get(name)) for name in ("WindowCenter", "WindowWidth"))
    pairs = zip(centers, widths, strict=False)
    return next((pair for pair in pairs if pair[1] > 0 and np.isfinite(pair).all()), None)


def _numbers(value) -> Iterator[float]:
    """Yield the numbers of an element with one, several or no values."""
    values = value if isinstance(value, MultiValue) else [value]
    return (float(number) for number in values if number not in (None, ""))


def _windowed(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Scale values by a window to 0 to 1 (PS3.3, C.11.2.1.2 and C.11.2.1.3), without clipping."""
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    if width <= 1:
        return (values > center - 0.5).astype(np.float64)
    return (values - (center - 0.5)) / (width - 1) + 0.5


def _lut(descriptor: list[int], data: bytes | list[int] | int) -> tuple[int, np.ndarray]:
    """Return the first value that a look-up table maps, and its entries."""
    count = (int(descriptor[0]) & 0xFFFF) or 2**16
    if isinstance(data, bytes):
        entries = np.frombuffer(data, np.uint8) if len(data) < 2 * count else np.frombuffer(data, "<u2")
    else:
        entries = np.atleast_1d(np.asarray(data, np.int64)) & 0xFFFF
    return int(descriptor[1]), entries[:count].astype(np.int64)


def _look_up(values: np.ndarray, first: int, entries: np.ndarray) -> np.ndarray:
    """Look values up in a table; values below and above its range get its first and its last entry."""
    return entries[np.clip(values.astype(np.int64) - first, 0, len(entries) - 1)]


def _full_scale(entries: np.ndarray, declared_bits: int) -> int:
    """Return a table's white: from its declared depth, unless its entries need more, or less than an eighth of it."""
    needed = max(int(entries.max()).bit_length(), 8)
    is_declared_right = declared_bits - 3 < needed <= declared_bits
    return 2 ** (declared_bits if is_declared_right else needed) - 1


def _palette_colours(stored: np.ndarray, facts: pydicom.Dataset) -> np.ndarray:
    """Return colours (H, W, 3) in uint8 for a palette's indices, by the palette's own depth (PS3.3, C.7.6.3.1.5)."""
    if "RedPaletteColorLookupTableData" not in facts:
        colours = apply_color_lut(stored, facts)[..., :3]  # handles segmented tables too
        return to_uint8(colours / np.iinfo(colours.dtype).max)
    part = "{}PaletteColorLookupTable{}".format
    tables = [
        _lut(facts[part(name, "Descriptor")].value, facts[part(name, "Data")].value)
        for name in ("Red", "Green", "Blue")
    ]
    white = _full_scale(
        np.concatenate([entries for _, entries in tables]), facts.RedPaletteColorLookupTableDescriptor[2]
    )
    return to_uint8(np.stack([_look_up(stored, first, entries) for first, entries in tables], axis=-1) / white)
