"""`python -m fptplus preload` and `verify` on class folders, as a user calls them."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from fptplus.__main__ import main
from fptplus.store.feature_store import FeatureStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders of small noise pictures, two classes in each split."""
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        for label in ("healthy", "ill"):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{index}.png")
    return root


def preload(folder, out, *options):
    return main(["preload", "--data", str(folder), "--out", str(out), "--model", "test_vit", "--res", "64", *options])


def test_a_store_is_made_described_and_found_whole(folder, tmp_path, capsys):
    assert preload(folder, tmp_path / "store", "--store-dtype", "int8", "--batch-size", "4") == 0
    printed = capsys.readouterr().out
    assert "14 images (6 train, 4 val, 4 test), 2 classes" in printed
    assert "note: test_vit has random weights (seed 0)" in printed
    assert "14 images, int8 features of test_vit at 64 px and side images of 256 px; 0.19 MiB an image" in printed
    store = FeatureStore.open(tmp_path / "store")
    assert store.manifest.classes == ("healthy", "ill") and store.manifest.layers == (3, 4, 5)

    assert main(["verify", "--store", str(tmp_path / "store"), "--data", str(folder), "--rows", "2"]) == 0
    printed = capsys.readouterr().out
    assert "14 rows as they were written" in printed and printed.count("100.0% of its tokens recomputed alike") == 2


def test_names_in_brackets_are_printed_as_they_are(folder, tmp_path, capsys):
    """rich would read them as markup, and draw `:eye:`."""
    odd = tmp_path / "data [red] :eye:"
    shutil.copytree(folder, odd)
    for split in ("train", "val", "test"):
        (odd / split / "ill").rename(odd / split / "ill [red] :eye:")
    store = tmp_path / "store [bold] :eye:"
    assert preload(odd, store) == 0
    printed = capsys.readouterr().out
    assert "ill [red] :eye:" in printed and "data [red] :eye:" in printed and "store [bold] :eye:" in printed
    assert main(["verify", "--store", str(store)]) == 0
    assert "store [bold] :eye:" in capsys.readouterr().out


def test_out_that_is_a_file_is_refused_before_anything_is_read(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("methods.cli.preload.open_dataset", pytest.fail)
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert preload(folder, out) == 2
        error = capsys.readouterr().err
        assert "out must be a folder that can be written" in error and error.count("\n") == 1
    options = ["--checkpoint", "none.safetensors", "--image", "none.png"]
    assert main(["visualize", *options, "--out", str(tmp_path / "file")]) == 2
    assert main(["train", "--store", "none", "--out", str(tmp_path / "file")]) == 2
    assert main(["evaluate", *options[:2], "--store", "none", "--out", str(tmp_path)]) == 2
    assert [line.split(" must")[0] for line in capsys.readouterr().err.splitlines()] == ["error: out"] * 3
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("rows", ["0", "-1"])
def test_a_wrong_number_of_rows_is_refused_by_name(tmp_path, capsys, rows):
    assert main(["verify", "--store", str(tmp_path), "--rows", rows]) == 2
    assert f"rows must be at least 1, got {rows}" in capsys.readouterr().err


def test_other_methods_get_images_at_the_resolution_they_train_on(folder, tmp_path):
    assert preload(folder, tmp_path / "store", "--method", "lora") == 0
    store = FeatureStore.open(tmp_path / "store")
    assert not store.has_features and store.manifest.image_res == 128


def test_verify_names_the_file_that_is_wrong_and_fails(folder, tmp_path, capsys):
    preload(folder, tmp_path / "store")
    os.truncate(tmp_path / "store" / "features-0-of-1.bin", 1000)
    assert main(["verify", "--store", str(tmp_path / "store")]) == 1
    assert "features-0-of-1.bin must be" in capsys.readouterr().err


def test_verify_refuses_the_originals_with_another_lpm(folder, tmp_path, capsys):
    preload(folder, tmp_path / "store")
    assert main(["verify", "--store", str(tmp_path / "store"), "--data", str(folder), "--seed", "1"]) == 1
    assert "must have weights_sha256" in capsys.readouterr().err


def test_verify_names_images_that_have_changed_in_stores_without_features_too(folder, tmp_path, capsys):
    images = shutil.copytree(folder, tmp_path / "images")
    assert preload(images, tmp_path / "store", "--method", "lora") == 0
    Image.new("RGB", (40, 50)).save(images / "val" / "ill" / "1.png")
    assert main(["verify", "--store", str(tmp_path / "store"), "--data", str(images)]) == 1
    assert "1 image changed since it was begun: val/ill/1.png" in capsys.readouterr().err


def test_an_unreadable_image_stops_or_is_skipped_and_listed(folder, tmp_path, capsys):
    bad = folder / "train" / "ill" / "bad.png"
    bad.write_bytes(b"no picture")
    try:
        assert preload(folder, tmp_path / "store") == 2
        error = capsys.readouterr().err
        assert "bad.png" in error and "Traceback" not in error
        assert preload(folder, tmp_path / "skipping", "--skip-bad-images") == 0
        printed = capsys.readouterr().out
        assert "1 of the images could not be decoded and were left out:" in printed and "bad.png" in printed
    finally:
        bad.unlink()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--method", "nope"], "method must be one of"),
        (["--model", "nope", "--method", "lora"], "model must be one of"),
        (["--preset", "nope"], "preset"),
        (["--res", "65"], "res must be a positive multiple of test_vit's patch size 16"),
    ],
)
def test_wrong_options_are_one_sentence_and_status_2(folder, tmp_path, capsys, options, sentence):
    assert preload(folder, tmp_path / "store", *options) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.strip().count("\n") == 0


def test_processes_started_by_torchrun_make_one_store(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        assert "14 images, bf16" not in capsys.readouterr().out, "the last to finish says so"
        monkeypatch.setenv("RANK", rank)
        assert preload(folder, tmp_path / "store") == 0
    assert "14 images, bf16 features" in capsys.readouterr().out
    monkeypatch.delenv("WORLD_SIZE"), monkeypatch.delenv("RANK")
    assert preload(folder, tmp_path / "alone") == 0
    store, alone = FeatureStore.open(tmp_path / "store"), FeatureStore.open(tmp_path / "alone")
    store.verify()
    assert store.manifest.examples == alone.manifest.examples
    assert (store.feature_rows(range(14)) == alone.feature_rows(range(14))).all()


def test_classes_are_listed_with_their_counts_and_doubts_are_told(folder, tmp_path, capsys):
    checkpoints = folder / "train" / "ill" / ".ipynb_checkpoints"
    checkpoints.mkdir()
    (checkpoints / "0-checkpoint.png").write_bytes((folder / "train" / "ill" / "0.png").read_bytes())
    try:
        assert preload(folder, tmp_path / "store", "--method", "lora") == 0
    finally:
        shutil.rmtree(checkpoints)
    printed = " ".join(capsys.readouterr().out.split())
    assert "healthy 3 2 2 ill 3 2 2" in printed
    assert "note: passed over 1 hidden or system file: .ipynb_checkpoints (1)" in printed


def test_an_image_that_is_none_stops_before_anything_is_computed(folder, tmp_path, capsys):
    bad = folder / "val" / "ill" / "bad.png"
    bad.write_bytes(b"no picture")
    try:
        assert preload(folder, tmp_path / "store") == 2
    finally:
        bad.unlink()
    assert "bad.png cannot be decoded" in capsys.readouterr().err and not (tmp_path / "store").exists()


def test_patients_in_folders_are_kept_whole_where_asked(tmp_path, capsys):
    for label in ("healthy", "ill"):
        for index in range(12):
            path = tmp_path / "images" / label / f"{label}{index // 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), index).save(path)
    options = ["--method", "lora", "--group-level", "1"]
    assert preload(tmp_path / "images", tmp_path / "store", *options) == 0
    assert "note: the random split keeps each of 12 patients or groups whole" in capsys.readouterr().out
    splits = {}
    for example in FeatureStore.open(tmp_path / "store").manifest.examples:
        splits.setdefault(example.name.split("/")[1], set()).add(example.split)
        assert example.group is None, "whose the images are is not stored"
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("content", [b"no picture", "damaged pixels"])
def test_a_split_that_loses_a_class_with_the_images_that_are_skipped_is_refused(tmp_path, capsys, content):
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in ("healthy", "ill"):
            (tmp_path / "images" / split / label).mkdir(parents=True)
            pixels = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / split / label / "0.png")
    bad = tmp_path / "images" / "val" / "ill" / "0.png"
    bad.write_bytes(bad.read_bytes()[:1000] if content == "damaged pixels" else content)
    assert preload(tmp_path / "images", tmp_path / "store", "--method", "lora", "--skip-bad-images") == 2
    error = capsys.readouterr().err
    assert "the val split of images must hold every class, it holds class 'healthy' alone" in error
    assert "it lost the 1 that cannot be read (the first is val/ill/0.png): repair them" in error
    assert (tmp_path / "store").exists() == (content == "damaged pixels"), "a header tells before anything is computed"
