"""Equal values become equal greys in a whole data set; padding, NaN and infinities stay out of the range."""

import struct
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fptplus import InvalidInput
from fptplus.data.greys import DEPTHS, Extent, GreyImage, GreyRange, GreyScale, range_of
from fptplus.data.images import decode, read_image, to_rgb

SCALE_12 = GreyScale(integer=GreyRange(0, 4095))


def tiff(bits, values, photometric=1, sample_format=1, extra=()):
    """A TIFF of one row, little-endian, as Pillow itself cannot write it."""
    data = np.asarray(values).tobytes() if bits > 12 else bytes(values)
    width = len(data) * 8 // bits
    tags = [(256, 3, width), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 3, 1), (279, 4, len(data)), (339, 3, sample_format)]
    entries = [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags]
    entries += [struct.pack("<HHI4s", tag, 2, len(text) + 1, text.encode()) for tag, text in extra]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def written(path, content):
    path.write_bytes(content)
    return path


def grey(path, scale=GreyScale()):  # noqa: B008 (frozen)
    return np.asarray(read_image(path, scale))[0, :, 0].tolist()


def test_one_more_than_4095_does_not_change_the_others():
    """By its own extremes an image of 4096 came out 16 times darker than one of 4095."""
    found = range_of("integer", [Extent(low=0, high=4095), Extent(low=0, high=4096)])
    scale = GreyScale(integer=found)
    one, other = (np.array([[1000, top]], np.uint16) for top in (4095, 4096))
    shown = [GreyImage(values=values, kind="integer").to_8_bit(scale)[0, 0] for values in (one, other)]
    assert shown[0] == shown[1] == round(1000 / 16383 * 255)


@pytest.mark.parametrize(("high", "bits"), [(200, 8), (256, 10), (1023, 10), (4095, 12), (4096, 14), (16384, 16)])
def test_the_depth_is_the_fewest_bits_that_hold_the_largest_value(high, bits):
    assert range_of("integer", [Extent(low=3, high=high), Extent(low=0, high=7)]) == GreyRange(0, 2**bits - 1)


def test_a_declared_depth_counts_unless_a_value_needs_more():
    assert range_of("integer", [Extent(low=0, high=50, bits=12), Extent(low=0, high=9, bits=12)]).high == 4095
    assert range_of("integer", [Extent(low=0, high=5000, bits=12)]).high == 8191
    assert range_of("integer", [Extent(low=-5, high=70)]) == GreyRange(-5, 70)
    assert range_of("integer", [Extent(low=0, high=70_000)]) == GreyRange(0, 70_000)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=6), st.integers(0, 65535))
@settings(max_examples=50)
def test_a_brighter_value_never_comes_out_darker_and_nothing_is_clipped(values, other):
    found = range_of("integer", [Extent(low=0, high=value) for value in (*values, other)])
    assert found.high >= max(*values, other) and found.high + 1 in [2**bits for bits in DEPTHS]
    image = GreyImage(values=np.sort(np.array([[*values, other]], np.uint16)), kind="integer")
    assert (np.diff(image.to_8_bit(GreyScale(integer=found)).astype(int)) >= 0).all()


@given(st.lists(st.floats(width=32), min_size=1, max_size=9))
@settings(max_examples=80)
def test_any_float_has_a_grey_and_the_range_is_of_finite_values(values):
    image = GreyImage(values=np.array([values], np.float32), kind="real")
    extent = image.extent()
    assert (extent is None) == (not np.isfinite(image.values).any())
    assert extent is None or np.isfinite([extent.low, extent.high]).all()
    shown = image.to_8_bit(GreyScale(real=range_of("real", [extent])) if extent else GreyScale())
    assert (shown[np.isnan(image.values)] == 0).all() and shown.dtype == np.uint8


def test_nan_is_black_and_infinity_white_and_neither_moves_the_range(tmp_path):
    values = np.array([[np.nan, -np.inf, 1.0, 2.0, np.inf]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert grey(tmp_path / "a.tif") == [0, 0, 0, 255, 255]


def test_nodata_of_a_tiff_is_black_and_outside_the_range(tmp_path):
    path = written(tmp_path / "a.tif", tiff(16, np.array([100, 9999, 200], np.uint16), extra=[(42113, "100")]))
    image = decode(path)
    assert (image.extent().low, image.padding.tolist()) == (200, [[True, False, False]])
    assert grey(path)[0] == 0


@pytest.mark.parametrize(
    ("bits", "values", "sample_format", "shown"),
    [
        (8, [0, 55, 255], 1, [255, 200, 0]),
        (12, [0xFF, 0xF8, 0x00], 1, [0, 127]),
        (16, np.array([0, 257, 65535], np.uint16), 1, [255, 254, 0]),
        (32, np.array([0, 0.5, 1], np.float32), 3, [255, 128, 0]),
    ],
)
def test_where_white_is_zero_every_depth_is_inverted(tmp_path, bits, values, sample_format, shown):
    upright = grey(written(tmp_path / "a.tif", tiff(bits, values, 1, sample_format)))
    if bits == 12:  # Pillow reads 12 bits only where black is zero
        assert upright == [255, 128] and decode(tmp_path / "a.tif").bits == 12
        return
    inverted = grey(written(tmp_path / "b.tif", tiff(bits, values, 0, sample_format)))
    assert inverted == shown and np.abs(np.add(inverted, upright) - 255).max() <= 1


def test_whole_numbers_of_32_bits_without_sign_are_not_negative(tmp_path):
    path = written(tmp_path / "a.tif", tiff(32, np.array([0, 2**31, 2**32 - 1], np.uint32)))
    assert grey(path) == [0, 128, 255]


def test_the_significant_bits_of_a_png_are_its_depth(tmp_path):
    Image.fromarray(np.array([[0, 512, 1023]], np.uint16)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    chunk = b"\0\0\0\x01sBIT\x0a" + crc32(b"sBIT\x0a").to_bytes(4)
    (tmp_path / "b.png").write_bytes(content[:33] + chunk + content[33:])
    assert decode(tmp_path / "a.png").bits is None and decode(tmp_path / "b.png").bits == 10
    assert grey(tmp_path / "b.png") == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "mode"), [(np.array([[0, 2000, 4095]], np.uint16), "I;16"), (np.array([[0, 2000, 4095]], np.int32), "I")]
)
def test_a_file_a_pillow_image_and_an_array_are_decoded_alike(tmp_path, values, mode):
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    with Image.open(path) as image:
        assert image.mode == mode
        shown = [np.asarray(to_rgb(decode(source), SCALE_12)) for source in (path, str(path), image, values)]
    for other in shown:
        np.testing.assert_array_equal(other, shown[0])
    assert shown[0][0, :, 0].tolist() == [0, 125, 255]


def test_arrays_in_8_bits_are_taken_as_they_are_and_others_are_refused():
    colours = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    np.testing.assert_array_equal(np.asarray(decode(colours)), colours)
    assert np.asarray(decode(colours[..., :1])).tolist() == np.asarray(decode(colours[..., 0])).tolist()
    for wrong in (colours.astype(np.float32), colours[None], np.zeros((0, 3), np.uint8), np.array([["a"]])):
        with pytest.raises(InvalidInput, match=r"must be \(H, W\) of numbers or \(H, W, 3\) of uint8, got"):
            decode(wrong)


def test_a_scale_survives_json():
    scale = GreyScale(integer=GreyRange(0, 4095), dicom=GreyRange(-1024, 3071))
    assert GreyScale.from_plain(scale.plain()) == scale
    assert GreyScale().plain() is None and GreyScale.from_plain(None) == GreyScale()


def test_an_image_outside_the_range_or_of_another_kind_is_doubted():
    image = GreyImage(values=np.array([[0, 60_000]], np.uint16), kind="integer")
    assert "outside the 0 … 4095 of the training data" in image.doubts(SCALE_12)[0]
    assert "were not in the training data" in image.doubts(GreyScale())[0]
    assert not GreyImage(values=np.array([[0, 4100]], np.uint16), kind="integer").doubts(SCALE_12)
