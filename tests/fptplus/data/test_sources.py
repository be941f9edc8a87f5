import io
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fptplus import InvalidInput
from fptplus.data import open_dataset
from fptplus.data.medmnist import MedMNISTArchive

COLOURS = {"cat": (250, 0, 0), "dog": (0, 250, 0), "10": (0, 0, 250), "9": (9, 9, 9)}


def draw(path, class_name="cat"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), COLOURS[class_name]).save(path)
    return path


@pytest.fixture
def split_folders(tmp_path):
    for split in ("train", "val", "test"):
        for class_name in ("cat", "dog"):
            for index in range(2):
                draw(tmp_path / "pets" / split / class_name / f"{index}.png", class_name)
    return tmp_path / "pets"


@pytest.fixture
def class_folders(tmp_path):
    for class_name, count in (("cat", 20), ("dog", 10)):
        for index in range(count):
            draw(tmp_path / "pets" / class_name / f"{index}.png", class_name)
    return tmp_path / "pets"


def assert_read_right(dataset):
    """Every image has the colour of its class, and keeps its name."""
    for example in dataset.examples:
        assert dataset.read(example).getpixel((0, 0)) == COLOURS[dataset.classes[example.label]], example


def test_split_folders_are_read_as_they_are(split_folders):
    (split_folders / "val" / "cat" / "notes.txt").write_text("no image")
    (split_folders / "val" / "cat" / ".hidden.png").write_bytes(b"")
    draw(split_folders / "val" / "cat" / "deeper" / "2.PNG")
    dataset = open_dataset(split_folders)
    assert dataset.name == "pets" and dataset.classes == ("cat", "dog")
    assert Counter(example.split for example in dataset.examples) == {"train": 4, "val": 5, "test": 4}
    assert "val/cat/deeper/2.PNG" in {example.name for example in dataset.examples}
    assert_read_right(dataset)


def test_class_folders_get_a_random_split_that_the_seed_decides(class_folders):
    dataset = open_dataset(class_folders, seed=1)
    assert [Counter(dataset.labels(split)) for split in ("train", "val", "test")] == [
        {0: 14, 1: 7},
        {0: 2, 1: 1},
        {0: 4, 1: 2},
    ]
    assert dataset.fingerprint() == open_dataset(str(class_folders), seed=1).fingerprint()
    assert dataset.fingerprint() != open_dataset(class_folders, seed=2).fingerprint()
    assert_read_right(dataset)


def test_classes_that_are_numbers_are_ordered_as_numbers(tmp_path):
    for class_name in ("10", "9"):
        for index in range(10):
            draw(tmp_path / class_name / f"{index}.png", class_name)
    assert open_dataset(tmp_path).classes == ("9", "10")


def test_a_split_may_be_called_valid(split_folders):
    (split_folders / "val").rename(split_folders / "valid")
    assert len(open_dataset(split_folders).indices("val")) == 4


def test_a_class_missing_in_a_split_is_named(split_folders):
    for path in (split_folders / "val" / "dog").iterdir():
        path.unlink()
    with pytest.raises(InvalidInput, match="val split of pets .* class 'cat' alone"):
        open_dataset(split_folders)


@pytest.mark.parametrize(
    ("arrange", "sentence"),
    [
        (lambda root: (root / "val").rename(root / "rest"), "lacks val"),
        (
            lambda root: (root / "val").rename(root.parent / "rest"),
            "must have train, val and test folders, it lacks val",
        ),
        (lambda root: (root / "valid").mkdir(), "one folder a split, it has val and valid for val"),
        (lambda root: draw(root / "train" / "loose.png"), "one folder a class, .* loose.png outside any"),
    ],
)
def test_folders_out_of_order_are_refused(split_folders, arrange, sentence):
    arrange(split_folders)
    with pytest.raises(InvalidInput, match=sentence):
        open_dataset(split_folders)


def test_nothing_at_all_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(InvalidInput, match="nowhere does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="it holds no folder"):
        open_dataset(tmp_path)
    (tmp_path / "empty_class").mkdir()
    with pytest.raises(InvalidInput, match="must hold at least one image"):
        open_dataset(tmp_path)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InvalidInput, match=r"must be a folder, a \.csv or a \.npz file"):
        open_dataset(tmp_path / "a.txt")


def write_table(root, rows, header="path,label,split"):
    (root / "images.csv").write_text("\n".join([header, *rows]) + "\n")
    return root / "images.csv"


@pytest.fixture
def rows(class_folders):
    """The lines of a table of ten cats and ten dogs; the table lies beside the folder."""
    splits = ["train"] * 7 + ["val"] + ["test"] * 2
    return [f"pets/{name}/{index}.png,{name},{split}" for name in ("cat", "dog") for index, split in enumerate(splits)]


def test_a_table_with_names_and_splits(rows, tmp_path):
    dataset = open_dataset(write_table(tmp_path, rows))
    assert dataset.classes == ("cat", "dog")
    assert [len(dataset.indices(split)) for split in ("train", "val", "test")] == [14, 2, 4]
    assert_read_right(dataset)


def test_a_table_with_numbers_and_without_splits(rows, tmp_path):
    numbered = [line.replace(",cat,", ",0,").replace(",dog,", ",1.0,").rpartition(",")[0] for line in rows]
    dataset = open_dataset(write_table(tmp_path, ["", *numbered], "﻿Path, Label"))
    assert dataset.classes == ("0", "1")
    assert [Counter(dataset.labels(split)) for split in ("train", "val", "test")] == [
        {0: 7, 1: 7},
        {0: 1, 1: 1},
        {0: 2, 1: 2},
    ]


def test_paths_in_a_table_may_be_absolute(rows, tmp_path):
    assert_read_right(open_dataset(write_table(tmp_path, [f"{tmp_path}/{line}" for line in rows])))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: [*rows, rows[0]], "pets/cat/0.png appears more often"),
        (lambda rows: [*rows, rows[0].replace("pets/", "pets/../pets/")], "pets/cat/0.png appears more often"),
        (
            lambda rows: [rows[0].replace("train", "dev"), *rows[1:]],
            "split must be train, val or test, line 2 .* 'dev'",
        ),
        (
            lambda rows: [rows[0].replace("cat/0", "cat/77"), *rows[1:]],
            "1 of the 20 images .* first is pets/cat/77.png",
        ),
        (lambda rows: [rows[0].replace(",cat", ","), *rows[1:]], "must have a label, line 2 has none"),
        (
            lambda rows: [line.replace(",cat,", ",-1,").replace(",dog,", ",1,") for line in rows],
            "count from 0, .* has -1",
        ),
        (
            lambda rows: [line.replace(",cat,", ",0,").replace(",dog,", ",99,") for line in rows],
            "has 99 and only 20 images",
        ),
        (lambda rows: [line.replace(",cat,", ",0,").replace(",dog,", ",2,") for line in rows], "no image of class '1'"),
        (lambda rows: [], "list at least one image"),
    ],
)
def test_a_table_with_a_mistake_is_refused(rows, tmp_path, change, sentence):
    with pytest.raises(InvalidInput, match=sentence) as error:
        open_dataset(write_table(tmp_path, change(rows)))
    assert "\n" not in str(error.value)


def test_a_table_without_the_columns_or_not_in_utf8_is_refused(rows, tmp_path):
    with pytest.raises(InvalidInput, match="columns path and label .*it has file, label"):
        open_dataset(write_table(tmp_path, rows, "file,label"))
    (tmp_path / "images.csv").write_bytes(b"path,label\n\xff\xfe\x00,1\n")
    with pytest.raises(InvalidInput, match="must be a CSV in UTF-8"):
        open_dataset(tmp_path / "images.csv")


def medmnist(path, *, shape=(5, 5), label_columns=1, drop=None, classes=2, dtype=np.uint8):
    arrays = {}
    for split, count in (("train", 6), ("val", 4), ("test", 4)):
        labels = np.arange(count) % classes
        images = np.zeros((count, *shape), dtype)
        images += (labels * 100).astype(dtype).reshape(-1, *[1] * len(shape))
        arrays[f"{split}_images"] = images
        arrays[f"{split}_labels"] = np.repeat(labels[:, None], label_columns, axis=1)
    arrays.pop(drop, None)
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize("shape", [(5, 5), (5, 5, 3)])
def test_medmnist_files_grey_and_in_colour(tmp_path, shape):
    dataset = open_dataset(medmnist(tmp_path / "mnist.npz", shape=shape))
    assert dataset.classes == ("0", "1")
    assert [len(dataset.indices(split)) for split in ("train", "val", "test")] == [6, 4, 4]
    for example in dataset.examples:
        image = dataset.read(example)
        assert image.mode == "RGB" and image.size == (5, 5)
        assert image.getpixel((2, 2)) == (100 * example.label,) * 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"label_columns": 14}, "one label an image, it has 14; multi-label"),
        ({"drop": "val_labels"}, "val_labels is missing; it holds"),
        ({"classes": 1}, "must have two classes"),
    ],
)
def test_medmnist_files_of_another_task_are_refused(tmp_path, options, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        open_dataset(medmnist(tmp_path / "mnist.npz", **options))


@pytest.mark.parametrize("key", ["train_labels", "train_images"])
def test_an_array_that_unpacks_to_far_more_than_fits_is_refused_at_once(tmp_path, monkeypatch, key):
    dataset = medmnist(tmp_path / "mnist.npz")
    monkeypatch.setattr("fptplus.data.medmnist.MAX_LABEL_BYTES", 10 if key == "train_labels" else 2**20)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10))
    with pytest.raises(InvalidInput, match=f"{key} of .*mnist.npz must unpack to 0 MiB at most"):
        dataset = open_dataset(dataset)
        dataset.read(dataset.examples[0])


def test_a_header_that_announces_more_than_there_is_is_refused(tmp_path):
    path = medmnist(tmp_path / "mnist.npz", drop="train_labels")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (2**60,)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train_labels.npy", header.getvalue() + bytes(80))
    with pytest.raises(InvalidInput, match="must be a MedMNIST .npz file"):
        open_dataset(path)


@pytest.mark.parametrize("label", [10**9, 2**62])
def test_a_huge_label_makes_no_classes(tmp_path, label):
    path = medmnist(tmp_path / "mnist.npz", drop="test_labels")
    arrays = dict(np.load(path))
    np.savez(path, **arrays, test_labels=np.array([0, 1, 0, label]))
    with pytest.raises(InvalidInput, match=f"has {label} and only 14 images"):
        open_dataset(path)


def test_labels_of_no_shape_are_refused(tmp_path):
    path = medmnist(tmp_path / "mnist.npz", drop="test_labels")
    arrays = dict(np.load(path))
    for labels in (np.array(1), np.zeros((4, 1, 5), int)):
        np.savez(path, **arrays, test_labels=labels)
        with pytest.raises(InvalidInput, match="test_labels of .* must hold class indices"):
            open_dataset(path)


@pytest.mark.parametrize("options", [{"shape": (5, 5, 5)}, {"dtype": np.float32}, {"drop": "test_images"}])
def test_medmnist_volumes_are_refused_when_read(tmp_path, options):
    dataset = open_dataset(medmnist(tmp_path / "mnist.npz", **options))
    with pytest.raises(InvalidInput, match=r"test_images"):
        dataset.read(dataset.examples[-1])


def test_damaged_archives_are_refused(tmp_path):
    whole = medmnist(tmp_path / "mnist.npz").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "cut.npz").write_bytes(content)
        with pytest.raises(InvalidInput, match=r"cut\.npz must be a MedMNIST \.npz file"):
            open_dataset(tmp_path / "cut.npz")


def test_threads_unpack_a_medmnist_split_once(tmp_path, monkeypatch):
    dataset, unpacked, together = open_dataset(medmnist(tmp_path / "mnist.npz")), [], Barrier(4)
    unpack = MedMNISTArchive._checked_images
    monkeypatch.setattr(MedMNISTArchive, "_checked_images", lambda *a: (unpacked.append(a[1]), unpack(*a))[1])

    def read(example):
        together.wait()
        return dataset.read(example)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, [example for example in dataset.examples if example.split == "train"][:1] * 4))
    assert unpacked == ["train"]
