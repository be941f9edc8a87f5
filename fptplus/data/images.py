"""Decode an image file to 8-bit RGB: JPEG, PNG, TIFF and BMP by Pillow, DICOM by pydicom.

Deeper images are scaled, never clipped:

    16-bit grey               0 … 65535 to 0 … 255; an image that stays within 0 … 4095 is taken to be a 12-bit one
    32-bit, float             the image's own minimum … maximum
    DICOM                     rescale slope and intercept, then the VOI look-up table or window of the file, else the
                              image's own minimum … maximum; MONOCHROME1 is inverted, so that more tissue is brighter

Transparency is laid on black, and the orientation that a camera noted (EXIF) is applied.
"""

import io
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, ImageOps
from pydicom.pixels import apply_color_lut, apply_rescale, apply_voi, apply_windowing, pixel_array

from fptplus.errors import InvalidInput

DICOM_SUFFIXES = (".dcm", ".dicom")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".bmp", *DICOM_SUFFIXES)
"""Endings, in lower case, by which image files are told from others in a folder."""

MAX_12_BIT, MAX_16_BIT = 4095, 65535


def is_image_file(path: Path) -> bool:
    """Whether the file's ending is that of an image, and the file is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def read_image(path: Path) -> Image.Image:
    """Decode a file to RGB.

    Raises:
        InvalidInput: if the file is missing, empty, truncated, no image, or holds several frames.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"image {path} cannot be read: {error.strerror or error}.") from error
    if not content:
        raise InvalidInput(f"image {path} is empty (0 bytes); remove it or copy it again.")
    if content[128:132] == b"DICM" or path.suffix.lower() in DICOM_SUFFIXES:
        return Image.fromarray(_dicom_pixels(content, path)).convert("RGB")
    return _pillow_image(content, path)


def _pillow_image(content: bytes, path: Path) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format == "TIFF":
            raise InvalidInput(f"image {path} must hold one page, it holds {frames}; save the page you mean as a file.")
        image.load()
        image = ImageOps.exif_transpose(image)
    except InvalidInput:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they stumble over
        raise InvalidInput(f"image {path} cannot be decoded, it is truncated or no image ({error}).") from error
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_grey_to_8_bit(np.asarray(image), sixteen_bit=image.mode.startswith("I;16")))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image.convert("RGB")


def _grey_to_8_bit(values: np.ndarray, *, sixteen_bit: bool) -> np.ndarray:
    """(H, W, 3) uint8 of deep grey values (H, W)."""
    if sixteen_bit or (values.dtype.kind == "i" and 255 < values.max() <= MAX_16_BIT and values.min() >= 0):
        unit = values / (MAX_12_BIT if values.max() <= MAX_12_BIT else MAX_16_BIT)
    else:
        unit = _stretched(values)
    return np.repeat(_to_uint8(unit)[..., None], 3, axis=-1)


def _stretched(values: np.ndarray) -> np.ndarray:
    """Values from their minimum to their maximum, as 0 to 1; all 0 where they are all the same."""
    low, high = float(values.min()), float(values.max())
    return (values.astype(np.float64) - low) / ((high - low) or 1.0)


def _to_uint8(unit: np.ndarray) -> np.ndarray:
    return (unit.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _dicom_pixels(content: bytes, path: Path) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 of a DICOM file, as a viewer would show it."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(content))
        frames = int(dataset.get("NumberOfFrames") or 1)
        if frames > 1:
            raise InvalidInput(
                f"image {path} must hold one frame, it holds {frames}; save the frame you mean as a file."
            )
        return _shown(dataset, pixel_array(dataset))
    except InvalidInput:
        raise
    except Exception as error:  # pydicom raises as many kinds as its plugins do
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise InvalidInput(f"DICOM image {path} cannot be decoded ({reason}).") from error


def _shown(dataset: pydicom.Dataset, stored: np.ndarray) -> np.ndarray:
    """8-bit values of stored ones: modality and VOI transformation, polarity."""
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return _to_uint8(apply_color_lut(stored, dataset) / MAX_16_BIT)
    if stored.ndim == 3:
        return _to_uint8(stored / (2**dataset.BitsStored - 1))
    values = apply_rescale(stored, dataset)
    if "VOILUTSequence" in dataset:
        depth = dataset.VOILUTSequence[0].LUTDescriptor[2]
        unit = apply_voi(values.astype(np.int64), dataset) / (2**depth - 1)
    elif dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None:
        far = 1e9  # what lies far below and above the window shows where its output begins and ends
        black, white = apply_windowing(np.array([-far, far]), dataset)
        unit = (apply_windowing(values.astype(np.float64), dataset) - black) / (white - black)
    else:
        unit = _stretched(values)
    return _to_uint8(1 - unit if dataset.PhotometricInterpretation == "MONOCHROME1" else unit)
