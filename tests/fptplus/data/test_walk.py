"""What is skipped in a folder, and that it is reported."""

import os
import shutil
from collections import Counter
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from fptplus import InvalidInput
from fptplus.data import open_dataset
from fptplus.data.walk import PassedOver, copies_among, images_below


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = np.frombuffer(path.as_posix().encode(), np.uint8)[None]  # no two images are the same
    Image.fromarray(colour).save(path, "png")
    return path


@pytest.fixture
def pets(tmp_path):
    for class_name in ("cat", "dog"):
        for index in range(10):
            draw(tmp_path / "pets" / class_name / f"{index}.png")
    return tmp_path / "pets"


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git/deep", "deep/.cache/deeper"])
def test_hidden_and_system_folders_are_passed_over_at_any_depth_and_counted(pets, folder):
    """Copies in .ipynb_checkpoints doubled a class and put test images into training."""
    before = open_dataset(pets).fingerprint()
    for index in range(3):
        draw(pets / "cat" / folder / f"{index}-checkpoint.png")
    draw(pets / folder.partition("/")[0] / "x.png") if not folder.startswith("deep") else None
    dataset = open_dataset(pets)
    assert dataset.fingerprint() == before and dataset.classes == ("cat", "dog")
    (note,) = dataset.notes
    name = ".cache" if folder.startswith("deep") else folder.partition("/")[0]
    count = 3 if folder.startswith("deep") else 4
    assert note == f"passed over {count} hidden or system files: {name} ({count})"


def test_every_ending_that_is_passed_over_is_counted_and_named(pets):
    for name in ("a.txt", "b.TXT", "c.gif", "README"):
        (pets / "cat" / name).write_text("no image")
    (pets / "labels.csv").write_text("beside the classes")
    (note,) = open_dataset(pets).notes
    start, _, found = note.partition(": ")
    assert start == "passed over 5 files that are not images"
    assert sorted(found.split(", ")) == ["1 .csv", "1 .gif", "1 without an ending", "2 .txt"]


def test_files_that_begin_with_a_dot_are_counted_together(pets):
    for index in range(3):
        (pets / "cat" / f"._{index}.png").write_bytes(b"resource fork")
    (pets / "cat" / "Thumbs.db").write_bytes(b"")
    assert open_dataset(pets).notes == (
        "passed over 4 hidden or system files: files that begin with a dot (3), Thumbs.db (1)",
    )


def test_nothing_is_said_where_nothing_was_passed_over(pets):
    assert open_dataset(pets).notes == ()


def test_images_are_known_by_their_content_where_the_ending_says_nothing(pets):
    draw(pets / "cat" / "scan")
    draw(pets / "cat" / "scan.0001")
    assert {"cat/scan", "cat/scan.0001"} <= {example.name for example in open_dataset(pets).examples}


def test_dicom_files_that_are_no_images_are_passed_over(pets, write_dicom):
    path = write_dicom(pets / "cat" / "report.dcm", np.zeros((2, 2), np.uint16))
    import pydicom

    report = pydicom.dcmread(path)
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedSRStorage
    report.save_as(path)
    dataset = open_dataset(pets)
    assert len(dataset.examples) == 20 and "1 DICOM without an image" in dataset.notes[0]


def test_linked_folders_are_followed_and_loops_are_not(tmp_path):
    draw(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "cat")
    passed_over = PassedOver()
    assert [path.name for path in images_below(tmp_path / "cat", passed_over)] == ["a.png"]


def test_what_lies_beside_the_split_folders_is_told(pets):
    for split in ("train", "val", "test"):
        for class_name in ("cat", "dog"):
            draw(pets / "root" / split / class_name / "0.png")
    draw(pets / "root" / "extra" / "cat" / "1.png")
    draw(pets / "root" / "loose.png")
    notes = open_dataset(pets / "root").notes
    assert "not used, being of no split: folder extra with 1 image" in notes
    assert "not used, lying in no split: loose.png" in notes


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_one_file_under_two_names_is_one_file(pets, link):
    if link == "symbolic":
        (pets / "dog" / "again.png").symlink_to(pets / "cat" / "0.png")
    else:
        os.link(pets / "cat" / "0.png", pets / "dog" / "again.png")
    with pytest.raises(InvalidInput, match="cat/0.png appears again as dog/again.png, which is the same file"):
        open_dataset(pets)


def test_a_linked_file_counts_once(pets, tmp_path):
    """A folder of links to images that lie elsewhere is a dataset like any other."""
    for class_name in ("cat", "dog"):
        (tmp_path / "linked" / class_name).mkdir(parents=True)
        for path in (pets / class_name).iterdir():
            (tmp_path / "linked" / class_name / path.name).symlink_to(path)
    assert Counter(example.label for example in open_dataset(tmp_path / "linked").examples) == {0: 10, 1: 10}


def test_copies_of_a_file_are_told_with_the_splits_and_labels_they_lie_in(pets):
    """What .ipynb_checkpoints did, under ordinary names."""
    for target in ("cat/copy of 0.png", "dog/0 (2).png"):
        shutil.copy(pets / "cat" / "0.png", pets / target)
    dataset = open_dataset(pets)
    (note,) = dataset.notes
    splits = len({e.split for e in dataset.examples if e.name in ("cat/0.png", "cat/copy of 0.png", "dog/0 (2).png")})
    assert "byte for byte the same as another: 2 files (such as cat/copy of 0.png, the same as cat/0.png)" in note
    assert f"copies in several splits: {int(splits > 1)}, with several labels: 1; remove the copies" in note


def test_files_that_differ_in_a_byte_are_no_copies(tmp_path):
    content = bytes(20_000)
    paths = [tmp_path / name for name in "abcd"]
    for path, change in zip(paths, (b"", b"x", b"", b"y"), strict=True):
        path.write_bytes(change + content[len(change) :])
    assert copies_among(paths) == [[0, 2]]
    assert copies_among([paths[0], tmp_path / "a#2", tmp_path / "a#3"]) == [], "frames of one file"


def test_a_file_that_cannot_be_opened_is_no_copy(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(b"same")
    monkeypatch.setattr(type(paths[0]), "open", mock.Mock(side_effect=PermissionError))
    assert copies_among(paths) == []
