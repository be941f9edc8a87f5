"""One rule for a data set: found before preloading, stored, kept and reported."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from fptplus import InvalidInput
from fptplus.data import open_dataset
from fptplus.data.greys import EACH_BY_ITSELF, Extent, GreyRange
from fptplus.data.images import ImageFacts
from fptplus.store.feature_store import FeatureStore
from fptplus.store.grey_survey import _Seen, find_greys, summary_of
from fptplus.store.manifest import MANIFEST, StoreManifest, _body_digest
from fptplus.store.preloading import preload

SETTINGS = {"image_res": 8, "mean": (0.5,) * 3, "std": (0.5,) * 3}
DEEP = ImageFacts(needs_range=True)


def folder_of(root, draw):
    """Class folders; draw(index) gives each image."""
    for index in range(12):
        split, label = ("train", "val", "test")[index % 3], ("no", "yes")[index // 3 % 2]
        (root / split / label).mkdir(parents=True, exist_ok=True)
        image = draw(index)
        Image.fromarray(image).save(root / split / label / f"{index}.{'tif' if image.dtype.kind == 'f' else 'png'}")
    return root


def deep(index, top=4096):
    """16-bit noise whose maxima lie on either side of 4095, with the value 1000 in a corner."""
    values = np.full((8, 8), 1000, np.uint16)
    values[4:, 4:] = 3000 + index
    values[0, 7] = 4095 if index else top
    return values


@pytest.fixture
def deep_folder(tmp_path):
    return folder_of(tmp_path / "deep", deep)


def test_equal_values_are_equal_greys_in_the_store_and_the_rule_is_in_its_manifest(deep_folder, tmp_path):
    store = preload(open_dataset(deep_folder), tmp_path / "store", **SETTINGS)
    corner = store.images(range(len(store)))[:, 0, 7, 0]
    assert set(corner.tolist()) == {round(1000 / 16383 * 255)}
    assert FeatureStore.open(store.folder).manifest.greys.integer == GreyRange(0, 16383)
    stored = json.loads((store.folder / MANIFEST).read_text())["store"]
    assert stored["greys"] == {"integer": [0.0, 16383.0]}


def test_the_rule_is_told_and_logged_by_default(deep_folder, tmp_path, caplog):
    survey = find_greys(open_dataset(deep_folder), tmp_path / "store")
    assert survey.notes == ("grey images deeper than 8 bits (12): 0 … 16383 become black … white",)
    preload(open_dataset(deep_folder), tmp_path / "store", **SETTINGS)
    assert survey.notes[0] in caplog.text


def test_a_begun_store_keeps_its_rule_without_looking_again(deep_folder, tmp_path, monkeypatch):
    dataset = open_dataset(deep_folder)
    preload(dataset, tmp_path / "store", rank=0, world_size=2, **SETTINGS)
    monkeypatch.setattr("fptplus.store.grey_survey._look_at_all", None)
    store = preload(dataset, tmp_path / "store", rank=1, world_size=2, **SETTINGS)
    assert preload(dataset, tmp_path / "store", **SETTINGS).manifest.greys == store.manifest.greys


def as_of_an_earlier_version(folder):
    content = json.loads((folder / MANIFEST).read_text())
    del content["store"]["greys"], content["store"]["decoding"]
    content["sha256"] = _body_digest(content["store"])
    (folder / MANIFEST).write_text(json.dumps(content))


def test_a_manifest_without_the_rule_is_read_and_deep_images_are_not_mixed_into_it(deep_folder, tmp_path):
    preload(open_dataset(deep_folder), tmp_path / "store", **SETTINGS)
    as_of_an_earlier_version(tmp_path / "store")
    assert FeatureStore.open(tmp_path / "store").manifest.greys == EACH_BY_ITSELF
    with pytest.raises(InvalidInput, match="of an earlier version, which scaled each image by itself; preload into an"):
        preload(open_dataset(deep_folder), tmp_path / "store", **SETTINGS)


def test_a_store_that_an_earlier_version_began_is_not_gone_on_with_by_another_decoding(deep_folder, tmp_path):
    dataset = open_dataset(deep_folder)
    preload(dataset, tmp_path / "store", rank=0, world_size=2, **SETTINGS)
    (progress,) = (tmp_path / "store").glob("progress-*.jsonl")
    first, *others = progress.read_text().splitlines()
    begun = json.loads(first)
    del begun["settings"]["greys"]
    progress.write_text("\n".join([json.dumps(begun), *others]) + "\n")
    with pytest.raises(InvalidInput, match="of an earlier version, which scaled each image by itself; preload into an"):
        preload(dataset, tmp_path / "store", rank=1, world_size=2, **SETTINGS)


def test_a_store_of_8_bit_images_of_an_earlier_version_is_opened_again(tmp_path):
    shallow = folder_of(tmp_path / "shallow", lambda index: np.full((8, 8), index, np.uint8))
    store = preload(open_dataset(shallow), tmp_path / "store", **SETTINGS)
    as_of_an_earlier_version(store.folder)
    again = preload(open_dataset(shallow), tmp_path / "store", **SETTINGS)
    assert len(again) == 12 and StoreManifest.read(store.folder).greys == EACH_BY_ITSELF


def test_one_odd_image_that_darkens_all_others_is_named(tmp_path):
    odd = folder_of(tmp_path / "odd", lambda index: deep(index, top=65535))
    survey = find_greys(open_dataset(odd), tmp_path / "store")
    assert survey.greys.integer == GreyRange(0, 65535)
    assert "use no more than 6.2% of their range and are nearly black" in survey.notes[1]
    assert "train/no/0.png, which reaches 65535" in survey.notes[1]


def test_real_numbers_have_a_range_too_and_constant_ones_are_told(tmp_path):
    real = folder_of(tmp_path / "real", lambda index: np.full((8, 8), index / 10, np.float32))
    assert find_greys(open_dataset(real), tmp_path / "s").greys.real == GreyRange(0, np.float32(1.1))
    flat = folder_of(tmp_path / "flat", lambda index: np.full((8, 8), 2.5, np.float32))
    assert (
        "all images of real numbers have the one value 2.5" in find_greys(open_dataset(flat), tmp_path / "s").notes[1]
    )


def test_images_that_cannot_be_read_are_named_before_anything_is_computed(deep_folder, tmp_path):
    (deep_folder / "train" / "no" / "0.png").write_bytes(b"no picture")
    (deep_folder / "val" / "no" / "1.png").write_bytes((deep_folder / "val" / "no" / "1.png").read_bytes()[:60])
    survey = find_greys(open_dataset(deep_folder), tmp_path / "store")
    assert survey.unreadable == ("train/no/0.png", "val/no/1.png")
    assert survey.greys.integer == GreyRange(0, 4095), "without them the largest value is 4095"


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        (
            [_Seen("a", ImageFacts(num_frames=40)), _Seen("b", ImageFacts())],
            r"several frames in 1 file \(a: 40\): the middle",
        ),
        (
            [_Seen("a", DEEP, "integer", Extent(low=0, high=4095)), _Seen("b", ImageFacts())],
            "deeper than 8 bits: 1 image, of 8 bits: 1; check",
        ),
        (
            [_Seen(str(bits), DEEP, "integer", Extent(low=0, high=900, bits=bits)) for bits in (10, 12)],
            "declare different depths, 10, 12 bits",
        ),
        (
            [
                _Seen("a", ImageFacts(needs_range=True, is_dicom=True), "dicom", Extent(low=0, high=9)),
                _Seen("b", ImageFacts(is_dicom=True)),
            ],
            "colour in 1 DICOM file, none in 1: the latter",
        ),
        (
            [_Seen("a", ImageFacts(is_deep_colour=True), None, Extent(low=0, high=15))],
            "half of the colour images of 16",
        ),
    ],
)
def test_what_may_set_images_apart_is_told(seen, sentence):
    assert re.search(sentence, " | ".join(summary_of(seen).notes))
