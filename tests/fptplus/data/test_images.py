import io

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.sequence import Sequence

from fptplus import InvalidInput
from fptplus.data.images import inspect_image, is_image_file, read_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def grey(path):
    pixels = np.asarray(read_image(path))
    assert pixels.ndim == 3 and pixels.dtype == np.uint8
    assert (pixels == pixels[..., :1]).all(), "grey images have three equal channels"
    return pixels[..., 0]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_lossless_colour_comes_back_as_it_was(tmp_path, suffix):
    Image.fromarray(RGB).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / f"a{suffix}")), RGB)


def test_jpeg_in_colour_and_in_cmyk(tmp_path):
    flat = np.full((16, 16, 3), (200, 90, 30), np.uint8)
    Image.fromarray(flat).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(np.asarray(read_image(tmp_path / "a.jpg")).astype(int) - flat).max() < 6
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "b.jpg", quality=95)
    assert np.abs(np.asarray(read_image(tmp_path / "b.jpg")).astype(int) - flat).max() < 12


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 25700], [32896, 60000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(grey(tmp_path / f"a{suffix}"), np.round(values / 257))


def test_12_bit_grey_in_16_bits_uses_the_whole_range(tmp_path):
    values = np.array([[0, 2048, 4095]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(grey(tmp_path / "a.png"), [[0, 128, 255]])


def test_float_tiff_is_stretched_and_a_flat_one_is_black(tmp_path):
    Image.fromarray(np.array([[-1.0, 0.0, 1.0]], np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(grey(tmp_path / "a.tif"), [[0, 128, 255]])
    Image.fromarray(np.full((1, 3), 7.0, np.float32)).save(tmp_path / "b.tif")
    np.testing.assert_array_equal(grey(tmp_path / "b.tif"), [[0, 0, 0]])


def test_transparency_is_laid_on_black_and_palettes_are_resolved(tmp_path):
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png")).tolist() == [[[255, 0, 0], [0, 0, 0]]]
    Image.fromarray(pixels[..., :3]).quantize(4).save(tmp_path / "b.png")
    assert np.asarray(read_image(tmp_path / "b.png")).tolist() == [[[255, 0, 0], [255, 0, 0]]]


def test_the_orientation_that_a_camera_noted_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), np.rot90(RGB, -1))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is empty"), (b"no image at all", "truncated or no image"), ("half", "truncated or no image")],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_bad_files_are_refused_by_name(tmp_path, content, sentence, suffix):
    if content == "half":
        whole = io.BytesIO()
        noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(whole, {".jpg": "jpeg", ".tif": "tiff"}.get(suffix, "png"))
        content = whole.getvalue()[: len(whole.getvalue()) // 2]
    (tmp_path / f"bad{suffix}").write_bytes(content)
    with pytest.raises(InvalidInput, match=rf"bad\{suffix}.*{sentence}") as error:
        read_image(tmp_path / f"bad{suffix}")
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.png cannot be read"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_image(tmp_path)


@pytest.mark.parametrize("several", ["pages", "frames"])
def test_of_several_frames_the_middle_one_is_read_or_the_one_that_is_named(tmp_path, write_dicom, several):
    greys = [10, 20, 30, 40, 50]
    if several == "pages":
        path = tmp_path / "many.tif"
        first, *others = [Image.new("L", (4, 3), value) for value in greys]
        first.save(path, save_all=True, append_images=others)
    else:
        frames = np.array(greys, np.uint8)[:, None, None].repeat(3, 1).repeat(4, 2)
        path = write_dicom(tmp_path / "many.dcm", frames, WindowCenter=128, WindowWidth=256)
    assert inspect_image(path).num_frames == 5
    assert read_image(path).getpixel((0, 0)) == (30, 30, 30)
    for frame, value in enumerate(greys, start=1):
        assert read_image(path.with_name(f"{path.name}#{frame}")).getpixel((0, 0)) == (value,) * 3
    for frame in (0, 6):
        with pytest.raises(InvalidInput, match=rf"frame must be 1 to 5, as many as .*many.* holds, got #{frame}"):
            read_image(path.with_name(f"{path.name}#{frame}"))
        assert not inspect_image(path.with_name(f"{path.name}#{frame}")).is_readable


def test_previews_and_levels_of_a_pyramid_are_no_frames(tmp_path):
    sizes = [(8, 8), (4, 4), (2, 2)]
    first, *others = [Image.new("L", size, 10 * index) for index, size in enumerate(sizes)]
    first.save(tmp_path / "pyramid.tif", save_all=True, append_images=others)
    assert inspect_image(tmp_path / "pyramid.tif").num_frames == 1
    assert read_image(tmp_path / "pyramid.tif").size == (8, 8)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_damaged_file_is_an_image_or_one_sentence(tmp_path_factory, data):
    """Headers and pixels of every kind, with some bytes changed or cut off."""
    kind = data.draw(st.sampled_from(["png", "tiff", "bmp", "jpeg"]))
    whole = io.BytesIO()
    values = np.random.default_rng(1).integers(0, 4000, (6, 5), np.uint16)
    Image.fromarray(values if kind in ("png", "tiff") else values.astype(np.uint8)).save(whole, kind)
    content = bytearray(whole.getvalue())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.img"
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    inspect_image(path)
    is_image_file(path)
    try:
        assert read_image(path).mode == "RGB"
    except InvalidInput as error:
        assert "a.img" in str(error) and "\n" not in str(error)


def test_a_file_may_have_a_number_sign_in_its_name(tmp_path):
    Image.new("L", (2, 2), 7).save(tmp_path / "a.png#2", "png")
    assert read_image(tmp_path / "a.png#2").getpixel((0, 0)) == (7, 7, 7)


def test_dicom_goes_through_rescale_and_window(tmp_path, write_dicom):
    """PS3.3 C.11.2.1.2.1, LINEAR: below centre - 0.5 - (width - 1) / 2 black, above the same plus white."""
    stored = np.array([[0, 50, 100, 150, 4000]], np.uint16)
    path = write_dicom(
        tmp_path / "a.dcm", stored, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=100.5, WindowWidth=201
    )
    unit = (stored * 2.0 - 100 - 100) / 200 + 0.5
    np.testing.assert_allclose(grey(path), np.round(unit.clip(0, 1) * 255), atol=1)


def test_dicom_without_window_is_stretched_and_monochrome1_inverted(tmp_path, write_dicom):
    stored = np.array([[-10, 0, 10]], np.int16)
    np.testing.assert_array_equal(grey(write_dicom(tmp_path / "a.dcm", stored)), [[0, 128, 255]])
    inverted = write_dicom(tmp_path / "b.dcm", stored, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(grey(inverted), [[255, 128, 0]])


def test_dicom_look_up_table_decides_where_there_is_one(tmp_path, write_dicom):
    lut = pydicom.Dataset()
    lut.add_new("LUTDescriptor", "US", [4, 0, 8])
    lut.add_new("LUTData", "US", [0, 10, 200, 255])
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1, 2, 3, 9]], np.uint16), VOILUTSequence=Sequence([lut]))
    np.testing.assert_array_equal(grey(path), [[0, 10, 200, 255, 255]])


def test_colour_dicom_without_an_ending_is_told_by_its_preamble(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "IM0001", RGB)
    np.testing.assert_array_equal(np.asarray(read_image(path)), RGB)


def test_bad_dicom_is_refused_by_name(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "many.dcm", np.zeros((4, 4), np.uint16), NumberOfFrames=3)
    with pytest.raises(InvalidInput, match=r"many\.dcm cannot be decoded \(The number of bytes"):
        read_image(path)
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(write_dicom(tmp_path / "a.dcm", np.zeros((64, 64), np.uint16)).read_bytes()[:1200])
    with pytest.raises(InvalidInput, match=r"cut\.dcm cannot be decoded") as error:
        read_image(cut)
    assert "\n" not in str(error.value)
    (tmp_path / "text.dcm").write_text("no DICOM")
    with pytest.raises(InvalidInput, match=r"text\.dcm cannot be decoded"):
        read_image(tmp_path / "text.dcm")
