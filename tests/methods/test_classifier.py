"""A checkpoint processes an image as its training did, whether it comes as a file, a Pillow image or an array."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from fptplus.__main__ import main
from fptplus.data.greys import EACH_BY_ITSELF, GreyRange
from fptplus.store.feature_store import FeatureStore
from fptplus.training.checkpoint import CheckpointInfo
from methods import classifier as classifiers
from methods.classifier import load_classifier
from methods.method import log_once


def deep(index):
    """12-bit noise in 16 bits, of which most is dark: clipped at 255 it is nearly white."""
    return np.random.default_rng(index).integers(0, 1500, (40, 40)).astype(np.uint16)


def shallow(index):
    return deep(index).astype(np.uint8)


def trained(root, draw):
    """Class folders, a store of them and a checkpoint of the linear method, after one epoch."""
    for index in range(18):
        split, label = ("train", "val", "test")[index % 3], ("no", "yes")[index // 3 % 2]
        (root / "images" / split / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(index)).save(root / "images" / split / label / f"{index}.png")
    shared = ["--method", "linear", "--model", "test_vit", "--device", "cpu"]
    assert main(["preload", "--data", str(root / "images"), "--out", str(root / "store"), "--res", "64", *shared]) == 0
    options = ["--store", str(root / "store"), "--out", str(root / "runs"), "--epochs", "1", "--batch-size", "3"]
    assert main(["train", *options, *shared]) == 0
    return next((root / "runs").glob("*/best.safetensors"))


@pytest.fixture(scope="module")
def deep_checkpoint(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("deep"), deep)


@pytest.fixture(autouse=True)
def forgetful():
    """What was said once may be said again in the next test."""
    log_once.cache_clear()


def test_predicting_sees_the_very_pixels_of_training(deep_checkpoint):
    """A 16-bit image was clipped here: mean grey 48 in training, 225 in `predict`."""
    root = deep_checkpoint.parents[2]
    store, classifier = FeatureStore.open(root / "store"), load_classifier(deep_checkpoint)
    for row, example in enumerate(store.manifest.examples):
        path = root / "images" / example.name
        with Image.open(path) as image:
            for source in (path, str(path), image, np.asarray(image)):
                seen = classifiers.to_square(classifier.decode(source), store.manifest.image_res)
                assert torch.equal(seen, store.images([row])[0]), example.name
    assert 30 < store.images(range(len(store))).float().mean() < 60


def test_files_images_and_arrays_get_the_same_probabilities(deep_checkpoint):
    classifier = load_classifier(deep_checkpoint)
    path = deep_checkpoint.parents[2] / "images" / "test" / "no" / "2.png"
    found = [classifier.predict(source) for source in (path, Image.open(path), deep(2))]
    assert found[0] == found[1] == found[2] and set(found[0]) == {"no", "yes"}


def test_the_rule_is_in_the_checkpoint(deep_checkpoint):
    info = CheckpointInfo.read(deep_checkpoint)
    assert info.greys.integer == GreyRange(0.0, 4095.0) and info.decoding == 2
    assert info.metadata()["greys"] == '{"integer": [0.0, 4095.0]}' and info.metadata()["decoding"] == "2"


def test_a_checkpoint_of_an_earlier_version_says_that_dicom_looked_otherwise(deep_checkpoint, caplog):
    example = Path(pydicom.__file__).parent / "data" / "test_files" / "MR_small.dcm"
    classifier = load_classifier(deep_checkpoint)
    with caplog.at_level(logging.WARNING):
        classifier.decode(example)
        assert "earlier version" not in caplog.text
        replace(classifier, decoding=1).decode(example)
    assert "the checkpoint is of an earlier version, which took padding, tables and windows of DICOM" in caplog.text


def test_what_lies_outside_the_rule_is_said_once(deep_checkpoint, caplog):
    classifier = load_classifier(deep_checkpoint)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            classifier.decode(np.full((4, 4), 60_000, np.uint16))
    assert caplog.text.count("outside the 0 … 4095 of the training data, and clipped") == 1


def test_a_training_on_8_bit_images_says_that_it_knows_no_deep_ones(tmp_path, caplog):
    checkpoint = trained(tmp_path, shallow)
    info = CheckpointInfo.read(checkpoint)
    assert info.greys == EACH_BY_ITSELF and "greys" not in info.metadata(), "a run of an earlier version resumes"
    classifier = load_classifier(checkpoint)
    with caplog.at_level(logging.WARNING):
        assert np.asarray(classifier.decode(np.array([[0, 4095]], np.uint16)))[0, :, 0].tolist() == [0, 255]
        assert not [record for record in caplog.records if classifier.decode(shallow(1)) is None]
    assert caplog.text.count("were not in the training data, or scaled one by one: so is this one") == 1


def test_a_choice_among_frames_is_said(deep_checkpoint, tmp_path, caplog):
    pages = [Image.fromarray(deep(index)) for index in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    classifier = load_classifier(deep_checkpoint)
    with caplog.at_level(logging.WARNING), Image.open(tmp_path / "pages.tif") as image:
        middle, first = classifier.decode(tmp_path / "pages.tif"), classifier.decode(image)
    assert "of 3 frames the middle one is read" in caplog.text and "the one that it stands at" in caplog.text
    np.testing.assert_array_equal(np.asarray(middle), np.asarray(classifier.decode(deep(1))))
    np.testing.assert_array_equal(np.asarray(first), np.asarray(classifier.decode(deep(0))))


def test_evaluate_classifies_a_frame_of_a_file(deep_checkpoint, tmp_path, capsys):
    pages = [Image.fromarray(values) for values in (deep(0), 4095 - deep(1), deep(2) // 64)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    for name in ("pages.tif", "pages.tif#2", "pages.tif#3"):
        assert main(["evaluate", "--checkpoint", str(deep_checkpoint), "--image", str(tmp_path / name)]) == 0
    lines = "".join(capsys.readouterr().out.split("\n")).replace(str(tmp_path), "")
    middle, second, third = (part.partition(":")[2] for part in lines.split("/pages.tif")[1:])
    assert middle == second != third
