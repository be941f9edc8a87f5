"""A store knows what its image files held, and notices images that were exported again under old names."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from fptplus import InvalidInput
from fptplus.data import open_dataset
from fptplus.store.manifest import MANIFEST, _body_digest
from fptplus.store.preloading import preload
from fptplus.store.source_files import SourceFile

SETTINGS = {"image_res": 16, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
SPLITS, CLASSES = ("train", "val", "test"), ("no", "yes")


def draw(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(path)


@pytest.fixture
def images(tmp_path):
    for split in SPLITS:
        for class_name in CLASSES:
            for index in range(2):
                draw(tmp_path / "images" / split / class_name / f"{index}.png", 50 * index)
    return tmp_path / "images"


def again(images, tmp_path, **options):
    return preload(open_dataset(images), tmp_path / "store", **(SETTINGS | options))


def later(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))


def test_images_exported_again_under_old_names_are_not_taken_for_preloaded(images, tmp_path):
    again(images, tmp_path)
    draw(images / "val/yes/1.png", 200)
    with pytest.raises(InvalidInput, match=r"1 image changed since it was begun: val/yes/1.png; preload into another"):
        again(images, tmp_path)


def test_of_equal_size_the_contents_tell(images, tmp_path):
    again(images, tmp_path)
    path = images / "val/yes/1.png"
    size = path.stat().st_size
    draw(path, 51)
    later(path)
    assert path.stat().st_size == size
    with pytest.raises(InvalidInput, match="val/yes/1.png"):
        again(images, tmp_path)


def test_files_that_were_only_copied_or_touched_are_the_same(images, tmp_path, caplog):
    store = again(images, tmp_path)
    for path in images.rglob("*.png"):
        later(path)
    assert len(again(images, tmp_path)) == len(store) == 12
    assert not caplog.records


def test_a_file_of_the_same_size_and_time_is_not_read_again(images, tmp_path, monkeypatch):
    again(images, tmp_path)
    monkeypatch.setattr(SourceFile, "read", None)
    assert len(again(images, tmp_path)) == 12


def test_an_image_that_was_repaired_after_it_was_skipped_is_noticed(images, tmp_path):
    (images / "train/no/0.png").write_bytes(b"no image")
    assert len(again(images, tmp_path, skip_bad_images=True).manifest.skipped) == 1
    draw(images / "train/no/0.png", 7)
    with pytest.raises(InvalidInput, match="train/no/0.png; preload into another folder"):
        again(images, tmp_path, skip_bad_images=True)


def test_a_begun_store_does_not_go_on_with_other_images(images, tmp_path):
    again(images, tmp_path, rank=0, world_size=2)
    first = json.loads((tmp_path / "store/progress-0-of-2.jsonl").read_text().splitlines()[1])
    assert first["source"][0] > 0
    draw(next(images.glob("train/no/0.png")), 201)
    with pytest.raises(InvalidInput, match="1 image changed since it was begun"):
        again(images, tmp_path, rank=0, world_size=2)


def test_images_that_are_gone_leave_the_store_usable(images, tmp_path):
    dataset = open_dataset(images)
    preload(dataset, tmp_path / "store", **SETTINGS)
    (images / "train/no/0.png").unlink()
    assert len(preload(dataset, tmp_path / "store", **SETTINGS)) == 12


def test_a_store_of_an_earlier_version_is_opened_and_what_cannot_be_checked_is_said_once(images, tmp_path, caplog):
    again(images, tmp_path)
    manifest = tmp_path / "store" / MANIFEST
    content = json.loads(manifest.read_text())
    del content["store"]["sources"]
    manifest.write_text(json.dumps(content | {"sha256": _body_digest(content["store"])}))
    draw(images / "val/yes/1.png", 200)
    assert len(again(images, tmp_path)) == 12
    assert ["12 images held when it was made" in record.message for record in caplog.records] == [True]


def test_a_medmnist_file_with_other_images_is_noticed(tmp_path):
    def write(seed):
        generator, arrays = np.random.default_rng(seed), {}
        for split in SPLITS:
            arrays[f"{split}_images"] = generator.integers(0, 256, (4, 8, 8), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.array([[0], [1], [0], [1]], np.uint8)
        np.savez(tmp_path / "mnist.npz", **arrays)

    write(0)
    again(tmp_path / "mnist.npz", tmp_path)
    later(tmp_path / "mnist.npz")
    assert len(again(tmp_path / "mnist.npz", tmp_path)) == 12
    write(1)
    with pytest.raises(InvalidInput, match="12 images changed since it was begun: train/0, train/1"):
        again(tmp_path / "mnist.npz", tmp_path)
