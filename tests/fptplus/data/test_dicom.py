"""DICOM as a viewer shows it: look-up tables by their own depth, windows, polarity, padding, and odd files."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.sequence import Sequence

from fptplus import InvalidInput
from fptplus.data import dicom
from fptplus.data.dicom import decodable_encodings, is_dicom, patient_of
from fptplus.data.greys import GreyRange, GreyScale
from fptplus.data.images import decode, is_image_file, read_image

EXAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
WHOLE = {"WindowCenter": 128, "WindowWidth": 256}
"""A window that shows 0 … 255 as they are."""


def grey(path, scale=GreyScale()):  # noqa: B008 (frozen)
    return np.asarray(read_image(path, scale))[..., 0]


def lut(entries, bits, first=0, as_bytes=False):
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 2**16, first, bits])
    if as_bytes:
        item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    else:
        item.add_new("LUTData", "US", [int(entry) for entry in entries])
    return Sequence([item])


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_voi_table_counts_by_its_own_depth(tmp_path, write_dicom, bits, as_bytes):
    entries = np.linspace(0, 2**bits - 1, 4096).round().astype(int)
    path = write_dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=lut(entries, bits, as_bytes=as_bytes))
    np.testing.assert_allclose(grey(path), RAMP / 4095 * 255, atol=0.7)


def test_a_voi_table_that_declares_too_many_or_too_few_bits_is_believed_by_its_entries(tmp_path, write_dicom):
    entries = np.linspace(0, 4095, 4096).round().astype(int)
    for declared in (16, 10):
        path = write_dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=lut(entries, declared))
        np.testing.assert_allclose(grey(path), RAMP / 4095 * 255, atol=0.6)


@pytest.mark.parametrize("bits", [12, 16])
def test_a_modality_table_of_any_depth_comes_before_the_window(tmp_path, write_dicom, bits):
    """pydicom's own look-up takes 8 and 16 bits only."""
    stored = np.arange(6, dtype=np.uint8).reshape(1, 6)
    path = write_dicom(tmp_path / "a.dcm", stored, ModalityLUTSequence=lut([0, 50, 100, 200], bits, first=1), **WHOLE)
    assert grey(path).tolist() == [[0, 0, 50, 100, 200, 200]]


@pytest.mark.parametrize("as_words", [False, True])
def test_a_palette_of_8_bits_is_not_black(tmp_path, write_dicom, as_words):
    """8-bit entries, packed as bytes or each in a word under a 16-bit descriptor."""
    colours = np.array([[0, 0, 0], [255, 0, 10], [3, 200, 255]], np.uint8)
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        entries = np.append(colours[:, channel], np.uint8(0))
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16 if as_words else 8]
        tags[f"{name}PaletteColorLookupTableData"] = entries.astype("<u2" if as_words else np.uint8).tobytes()
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 1, 2]], np.uint8), **tags)
    assert np.asarray(read_image(path)).tolist() == [colours.tolist()]


def test_empty_sequences_and_elements_are_as_if_they_were_not_there(tmp_path, write_dicom):
    plain = grey(write_dicom(tmp_path / "a.dcm", RAMP, **WHOLE))
    empty = {
        "VOILUTSequence": Sequence(),
        "ModalityLUTSequence": Sequence(),
        "RescaleSlope": "",
        "RescaleIntercept": "",
    }
    np.testing.assert_array_equal(grey(write_dicom(tmp_path / "b.dcm", RAMP, **empty, **WHOLE)), plain)
    hollow = Sequence([pydicom.Dataset()])
    path = write_dicom(tmp_path / "c.dcm", RAMP, VOILUTSequence=hollow, ModalityLUTSequence=hollow, **WHOLE)
    np.testing.assert_array_equal(grey(path), plain)


@pytest.mark.parametrize("width", [0, -100, ""])
def test_a_window_without_width_falls_back_to_the_next_and_then_to_the_range(tmp_path, write_dicom, width):
    stretched = grey(write_dicom(tmp_path / "a.dcm", RAMP))
    path = write_dicom(tmp_path / "b.dcm", RAMP, WindowCenter=100, WindowWidth=width)
    np.testing.assert_array_equal(grey(path), stretched)
    second = write_dicom(tmp_path / "c.dcm", RAMP, WindowCenter=[0, 128], WindowWidth=[width or -1, 256])
    np.testing.assert_array_equal(grey(second), RAMP.clip(max=255))


def test_windows_of_the_other_functions_and_of_width_1(tmp_path, write_dicom):
    """PS3.3 C.11.2.1.3.1 and C.11.2.1.3.2."""
    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    sigmoid = write_dicom(tmp_path / "a.dcm", RAMP, VOILUTFunction="SIGMOID", **window)
    np.testing.assert_allclose(grey(sigmoid), 255 / (1 + np.exp(-4 * (RAMP - 2000.0) / 1000)), atol=0.6)
    exact = write_dicom(tmp_path / "b.dcm", RAMP, VOILUTFunction="LINEAR_EXACT", **window)
    np.testing.assert_allclose(grey(exact), ((RAMP - 2000.0) / 1000 + 0.5).clip(0, 1) * 255, atol=0.6)
    step = write_dicom(tmp_path / "c.dcm", RAMP, WindowCenter=2000, WindowWidth=1)
    np.testing.assert_array_equal(grey(step), np.where(RAMP > 1999.5, 255, 0))


def test_padding_is_black_in_either_polarity_and_outside_the_range(tmp_path, write_dicom):
    stored = np.array([[-2000, -1000, 0, 1000]], np.int16)
    tags = {"PixelPaddingValue": -2000}
    assert grey(write_dicom(tmp_path / "a.dcm", stored, **tags)).tolist() == [[0, 0, 128, 255]]
    inverted = write_dicom(tmp_path / "b.dcm", stored, PhotometricInterpretation="MONOCHROME1", **tags)
    assert grey(inverted).tolist() == [[0, 255, 128, 0]]
    windowed = write_dicom(
        tmp_path / "c.dcm", stored, PhotometricInterpretation="MONOCHROME1", WindowCenter=0, WindowWidth=2001, **tags
    )
    assert grey(windowed).tolist() == [[0, 255, 127, 0]]
    ranged = write_dicom(tmp_path / "d.dcm", stored, PixelPaddingRangeLimit=-1000, **tags)
    assert grey(ranged).tolist() == [[0, 0, 0, 255]]


@pytest.mark.parametrize(("high_bit", "dtype"), [(11, np.uint16), (15, np.uint16), (11, np.int16), (13, np.int16)])
def test_the_bits_of_a_word_that_are_not_the_value_s_are_left_out(tmp_path, write_dicom, high_bit, dtype):
    """An overlay in the upper bits (retired), or values that do not begin at the lowest bit."""
    values = np.array([[0, 5, 1000, 2047]], dtype)
    values[0, 0] = -2048 if values.dtype.kind == "i" else 4095
    noise = np.array([[0x8000, 0x0001, 0xF00F, 0x4000]], np.uint16)
    mask = np.uint16(0xFFF << (high_bit - 11) & 0xFFFF)
    words = ((values.astype(np.uint16) << (high_bit - 11)) & mask) | (noise & ~mask)
    path = write_dicom(tmp_path / "a.dcm", words.view(dtype), BitsStored=12, HighBit=high_bit)
    np.testing.assert_array_equal(decode(path).values, values)


def test_padding_that_lies_beyond_the_stored_bits_is_found(tmp_path, write_dicom):
    stored = np.array([[63536, 2096, 0, 4095]], np.uint16)  # the first is the second in its lower 12 bits
    path = write_dicom(tmp_path / "a.dcm", stored, BitsStored=12, HighBit=11, PixelPaddingValue=63536)
    assert decode(path).padding.tolist() == [[True, False, False, False]]
    assert grey(path).tolist() == [[0, 131, 0, 255]]


def test_the_data_set_s_range_is_in_the_modality_s_unit(tmp_path, write_dicom):
    path = write_dicom(
        tmp_path / "a.dcm", np.array([[0, 1024, 2024]], np.uint16), RescaleSlope=1, RescaleIntercept=-1024
    )
    assert grey(path, GreyScale(dicom=GreyRange(-1024, 3071))).tolist() == [[0, 64, 126]]


def test_an_enhanced_file_s_frames_have_windows_of_their_own(tmp_path, write_dicom):
    frames = np.full((2, 2, 2), 100, np.uint16)
    groups = []
    for slope in (1, 2):
        group, values, window = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        values.RescaleSlope, values.RescaleIntercept = slope, 0
        window.WindowCenter, window.WindowWidth = 128, 256
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = Sequence([values]), Sequence([window])
        groups.append(group)
    path = write_dicom(tmp_path / "a.dcm", frames, PerFrameFunctionalGroupsSequence=Sequence(groups))
    shown = [grey(path.with_name(f"a.dcm#{frame}"))[0, 0] for frame in (1, 2)]
    assert shown == [100, 200]


@pytest.mark.parametrize("name", ["IM0001", "a.dcm"])
def test_files_without_preamble_are_read_as_those_with_one(tmp_path, write_dicom, name):
    whole = write_dicom(tmp_path / "whole.dcm", RAMP, **WHOLE)
    path, bare = tmp_path / name, tmp_path / f"bare_{name}"
    path.write_bytes(whole.read_bytes()[128:])
    dataset = pydicom.dcmread(whole)
    buffer = io.BytesIO()
    pydicom.filewriter.write_dataset(_plain(buffer), pydicom.Dataset(dataset))
    bare.write_bytes(buffer.getvalue())
    for file in (path, bare):
        assert is_image_file(file)
        np.testing.assert_array_equal(grey(file), grey(whole))


def _plain(buffer):
    file = pydicom.filebase.DicomIO(buffer)
    file.is_implicit_VR, file.is_little_endian = True, True
    return file


def test_a_jpeg_called_dcm_and_a_dicom_called_png_are_read_by_their_content(tmp_path, write_dicom):
    Image.new("L", (8, 8), 77).save(tmp_path / "a.dcm", "jpeg")
    assert read_image(tmp_path / "a.dcm").getpixel((3, 3)) == (77, 77, 77)
    path = write_dicom(tmp_path / "b.png", RAMP, **WHOLE)
    np.testing.assert_array_equal(grey(path), RAMP.clip(max=255))


def test_content_tells_dicom_from_text():
    assert not is_dicom(b"no DICOM at all") and not is_dicom(b"") and not is_dicom(b"\x08\x00")
    assert is_dicom(b"\0" * 128 + b"DICM") and is_dicom(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100")


@pytest.mark.parametrize(
    ("file", "size"),
    [
        ("MR_small_RLE.dcm", (64, 64)),
        ("MR_small_bigendian.dcm", (64, 64)),
        ("SC_rgb_jpeg_dcmtk.dcm", (100, 100)),
        ("SC_rgb_rle_16bit.dcm", (100, 100)),
        ("SC_ybr_full_422_uncompressed.dcm", (100, 100)),
        ("examples_palette.dcm", (800, 350)),
        ("rtdose_rle.dcm", (10, 10)),
    ],
)
def test_pydicom_s_examples_are_decoded_and_not_black(file, size):
    image = read_image(EXAMPLES / file)
    assert image.size == size and np.asarray(image).max() > 150


def test_a_codec_that_is_missing_is_named_with_its_cure(monkeypatch):
    monkeypatch.setattr(type(dicom.get_decoder(dicom.JPEGLSLossless)), "is_available", False)
    with pytest.raises(InvalidInput, match="codec is not installed.*pip install 'fptplus-bench\\[dicom\\]'") as error:
        read_image(EXAMPLES / "MR_small_jpeg_ls_lossless.dcm")
    assert "JPEG-LS Lossless" in str(error.value) and "\n" not in str(error.value)


def test_what_decodes_here_is_listed():
    found = decodable_encodings()
    assert found["uncompressed"] and found["RLE"] and set(found) == set(dicom.ENCODINGS)


@pytest.mark.parametrize("file", ["rtstruct.dcm", "test-SR.dcm"])
def test_dicom_files_that_are_no_images_say_so(file):
    assert dicom.holds_no_image(EXAMPLES / file) and not dicom.holds_no_image(EXAMPLES / "rtdose.dcm")
    with pytest.raises(InvalidInput, match="cannot be decoded, it holds no pixels"):
        read_image(EXAMPLES / file)


def test_a_patient_is_read_from_the_header_and_an_empty_one_is_none(tmp_path, write_dicom):
    assert patient_of(write_dicom(tmp_path / "a.dcm", RAMP, PatientID=" P7 ")) == "P7"
    assert patient_of(write_dicom(tmp_path / "b.dcm", RAMP, PatientID="")) is None
    (tmp_path / "c.dcm").write_text("no DICOM")
    assert patient_of(tmp_path / "c.dcm") is None


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_damaged_header_is_an_image_or_one_sentence(tmp_path_factory, data):
    content = bytearray((EXAMPLES / "MR_small.dcm").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(128, 1500))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.dcm"
    path.write_bytes(bytes(content[: data.draw(st.integers(140, len(content)))]))
    try:
        decode(path)
    except InvalidInput as error:
        assert "a.dcm" in str(error) and "\n" not in str(error)


def deflated(source, to):
    dataset = pydicom.dcmread(source)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(to, enforce_file_format=True)
    return to


def test_a_deflated_file_is_read_and_one_that_unpacks_to_far_more_is_refused(tmp_path, write_dicom, monkeypatch):
    plain = write_dicom(tmp_path / "a.dcm", np.arange(64, dtype=np.uint8).reshape(8, 8), **WHOLE)
    path = deflated(plain, tmp_path / "b.dcm")
    assert (grey(path) == grey(plain)).all()
    monkeypatch.setattr(dicom, "MAX_INFLATED_BYTES", 100)
    with pytest.raises(InvalidInput, match=r"b\.dcm cannot be decoded, it unpacks to more than 0 MiB"):
        read_image(path)
    assert patient_of(path) is None


def test_a_header_of_more_pixels_than_an_image_has_is_refused_at_once(tmp_path, write_dicom):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((8, 8), np.uint8), Rows=65535, Columns=65535)
    with pytest.raises(InvalidInput, match="must have at most .* pixels a frame, its header tells of 4,294,836,225"):
        read_image(path)
