"""Patients are not split across sets, whether known from a column, a folder or DICOM; a given split that does so is
reported.
"""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fptplus import InvalidInput
from fptplus.data import Example, open_dataset
from fptplus.data.doubts import doubts_about_groups
from fptplus.data.splits import random_split

SPLITS = ("train", "val", "test")
APART = {*range(9), *range(30, 36)}
"""Images of five patients out of twelve, each of whom a given split separates."""


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.frombuffer(path.as_posix().encode(), np.uint8)[None]).save(path)  # no two are the same
    return path


def splits_of_groups(dataset):
    found = defaultdict(set)
    for example in dataset.examples:
        found[example.group].add(example.split)
    return found


def assert_whole(dataset, count):
    found = splits_of_groups(dataset)
    assert len(found) == count and all(len(splits) == 1 for splits in found.values())


@given(st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), st.sampled_from("abcdefghij"))), max_size=60))
@settings(max_examples=60)
def test_no_group_is_ever_divided_and_without_groups_nothing_changes(images):
    labels, groups = [label for label, _ in images], [group for _, group in images]
    splits = random_split(labels, 3, groups=groups)
    found = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        found[group].add(split)
    assert all(len(splits) == 1 for group, splits in found.items() if group is not None)
    assert random_split(labels, 3, groups=[None] * len(labels)) == random_split(labels, 3)
    assert random_split(labels, 3, groups=[str(index) for index in range(len(labels))]) == random_split(labels, 3)


def test_a_split_by_groups_has_the_shares_of_one_by_images():
    groups = [str(index // 4) for index in range(400)]
    splits = random_split([index // 200 for index in range(400)], 0, groups=groups)
    assert [splits.count(split) for split in SPLITS] == [280, 40, 80]


@pytest.fixture
def table(tmp_path):
    """Twelve patients of three images each, half of them cats."""
    lines = []
    for index in range(36):
        name = draw(tmp_path / f"{index}.png").name
        lines.append(f"{name},{'cat' if index < 18 else 'dog'},P{index // 3}")

    def table(header="path,label,group", lines=lines):
        (tmp_path / "images.csv").write_text("\n".join([header, *lines]) + "\n")
        return open_dataset(tmp_path / "images.csv")

    return table


@pytest.mark.parametrize("column", ["group", "Patient", "patient_id", "PatientID"])
def test_a_column_of_groups_keeps_patients_whole(table, column):
    dataset = table(f"path,label,{column}")
    assert_whole(dataset, 12)
    assert "the random split keeps each of 12 patients or groups whole" in dataset.notes


def test_columns_that_are_not_read_are_named(table):
    assert (
        "columns that are not read: person; call the one that names patients group" in table("path,label,person").notes
    )


def test_a_line_without_group_is_a_group_of_its_own(table, tmp_path):
    draw(tmp_path / "more.png")
    rows = (tmp_path / "images.csv").read_text().splitlines()[1:] if (tmp_path / "images.csv").exists() else []
    rows = [f"{i}.png,{'cat' if i < 18 else 'dog'},P{i // 3}" for i in range(36)] + ["more.png,cat,"]
    assert "no group in 1 line: each such image is a group of its own" in table(lines=rows).notes


def test_too_few_groups_of_a_class_for_a_random_split_are_told(table):
    rows = [f"{index}.png,{'cat' if index < 18 else 'dog'},{'one' if index < 18 else index}" for index in range(36)]
    with pytest.raises(InvalidInput, match="the 18 images of class 'cat' are of 1, which leaves val and test with"):
        table(lines=rows)


def test_a_given_split_that_separates_patients_is_told_with_the_count(table):
    rows = [
        f"{index}.png,{'cat' if index < 18 else 'dog'},P{index // 3},{SPLITS[index % 3 * (index in APART)]}"
        for index in range(36)
    ]
    (note,) = [note for note in table("path,label,group,split", rows).notes if "several splits" in note]
    assert note.startswith(
        "5 of 12 patients or groups have images in several splits (5 in train and val and test; P0, P1"
    )
    assert "scores will look better than on new patients" in note


def test_pairs_of_splits_are_counted_apart():
    examples = [Example(str(i), 0, split, group) for i, (split, group) in enumerate(zip("aab", "xyz", strict=True))]
    assert doubts_about_groups(examples) == []
    placed = [
        ("train", "p"),
        ("test", "p"),
        ("train", "q"),
        ("val", "q"),
        ("test", "r"),
        ("train", None),
        ("val", None),
    ]
    (note,) = doubts_about_groups([Example(str(i), 0, *entry) for i, entry in enumerate(placed)])
    assert "2 of 3 patients" in note and "1 in train and test" in note and "1 in train and val" in note


@pytest.fixture
def patient_folders(tmp_path):
    for class_name in ("cat", "dog"):
        for patient in range(5):
            for index in range(4):
                draw(tmp_path / "pets" / class_name / f"{class_name}{patient}" / "study" / f"{index}.png")
    return tmp_path / "pets"


def test_a_folder_level_keeps_patients_whole(patient_folders):
    assert_whole(open_dataset(patient_folders, group_level=1), 10)
    assert next(iter(splits_of_groups(open_dataset(patient_folders, group_level=2)))).endswith("/study")
    with pytest.raises(
        InvalidInput, match="group_level must be a folder that every image has .* got 3; .* only 2 deep"
    ):
        open_dataset(patient_folders, group_level=3)


def test_folders_that_may_be_patients_are_told_where_no_level_is_given(patient_folders):
    (note,) = open_dataset(patient_folders).notes
    assert (
        note.startswith("images lie in 10 folders inside the class folders (cat0/study, ") and "--group-level" in note
    )


def test_a_level_without_folders_is_refused(table, tmp_path):
    table()
    with pytest.raises(InvalidInput, match="group_level must be given with class folders only"):
        open_dataset(tmp_path / "images.csv", group_level=1)


@pytest.fixture
def write_patients(tmp_path, write_dicom):
    def write_patients(patient_of):
        for index in range(24):
            path = tmp_path / "scans" / ("cat", "dog")[index % 2] / f"{index}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_dicom(path, np.full((2, 2), index, np.uint16), PatientID=patient_of(index))
        return tmp_path / "scans"

    return write_patients


def test_dicom_names_its_patients(write_patients):
    assert_whole(open_dataset(write_patients(lambda index: f"P{index // 4}")), 6)


def test_one_patient_for_all_is_none(write_patients):
    dataset = open_dataset(write_patients(lambda index: "ANONYMOUS"))
    assert {example.group for example in dataset.examples} == {None}
    assert "all DICOM files name the same patient: images are taken to be of different ones" in dataset.notes


def test_frames_of_a_file_stay_together_and_a_frame_is_named_once(tmp_path, write_dicom):
    rows = []
    for index in range(10):
        write_dicom(tmp_path / f"{index}.dcm", np.zeros((3, 2, 2), np.uint16))
        rows += [f"{index}.dcm#{frame},{'cat' if index < 5 else 'dog'}" for frame in (1, 2, 3)]
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *rows]))
    assert_whole(open_dataset(tmp_path / "images.csv"), 10)
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *rows, f"{tmp_path}/3.dcm#2,cat"]))
    with pytest.raises(InvalidInput, match=r"3\.dcm#2 appears again as .*/3\.dcm#2, which is the same file"):
        open_dataset(tmp_path / "images.csv")


def test_patients_are_not_in_the_fingerprint(table):
    """A store stays the one of its images, labels and splits; whose they are is not written into it."""
    splits = [SPLITS[index % 3] for index in range(36)]
    rows = [f"{i}.png,{'cat' if i < 18 else 'dog'},{split}" for i, split in enumerate(splits)]
    alone = table("path,label,split", rows).fingerprint()
    assert table("path,label,split,group", [f"{row},P{i}" for i, row in enumerate(rows)]).fingerprint() == alone
