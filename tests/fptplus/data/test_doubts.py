"""Labels that look like mistakes are reported, or refused if they can be nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fptplus import InvalidInput
from fptplus.data import Example, open_dataset
from fptplus.data.doubts import doubts_about_classes, looks_like_a_split


@pytest.mark.parametrize("name", ["train_images", "TestSet", "val2", "validation-data", "test", "dev", "Training Data"])
def test_names_that_say_a_split(name):
    assert looks_like_a_split(name)


@pytest.mark.parametrize("name", ["valve", "trained_eye", "contest", "interval", "detrain", "healthy", "0"])
def test_names_that_do_not(name):
    assert not looks_like_a_split(name)


def doubts(*classes):
    return doubts_about_classes(classes, [Example(str(i), i, "train") for i in range(len(classes))])


def test_classes_that_may_be_splits_are_told():
    assert (
        "taken as classes, though they look like names of splits: train_images, test_images"
        in doubts("train_images", "test_images")[0]
    )


@pytest.mark.parametrize("name", ["nan", "NaN", "None", "N/A", "<NA>", "null"])
def test_labels_that_may_be_missing_values_are_told_with_their_number(name):
    assert doubts("cat", name) == [
        f"the label {name!r} of 1 image looks like a missing value; leave these images out unless it is a class"
    ]


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("mild_dr", "mild dr"), ("\u00e9", "e\u0301"), ("a-b", "A_B")])
def test_classes_that_differ_in_spelling_only_are_told(pair):
    assert doubts("dog", *pair) == [
        f"taken as different classes, though only their spelling differs: {pair[0]}, {pair[1]}"
    ]


def test_nothing_is_said_of_ordinary_classes():
    assert not doubts("0", "1", "healthy", "ill", "not ill")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for index in range(40):
        Image.new("L", (1, 1)).save(root / f"{index}.png")
    return root


def opened(root, labels, header="path,label", tail=""):
    rows = [f"{index}.png,{label}{tail}" for index, label in enumerate(labels)]
    (root / "images.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    return open_dataset(root / "images.csv")


def test_labels_from_1_on_are_refused_with_the_cure(images):
    with pytest.raises(InvalidInput, match="must count from 0, those in .* begin at 1; subtract it from all, or write"):
        opened(images, [1 + index % 2 for index in range(40)])


def test_a_missing_label_among_numbers_is_refused_as_an_empty_one_is(images):
    labels = [index % 2 for index in range(39)]
    with pytest.raises(InvalidInput, match=r"must have a label, line 41 has nan; leave such lines out \(1 of 40\)"):
        opened(images, [*labels, "nan"])


def test_a_missing_label_among_names_is_a_class_and_told(images):
    labels = [("cat", "nan")[index % 2] for index in range(40)]
    assert "the label 'nan' of 20 images looks like a missing value" in opened(images, labels).notes[0]


def test_names_that_python_would_read_as_numbers_stay_names(images):
    """`1_0` is ten to Python, and a name to everybody else."""
    assert opened(images, [("1_0", "2_0")[index % 2] for index in range(40)]).classes == ("1_0", "2_0")


def test_more_cells_than_columns_are_refused_and_empty_ones_are_not(images):
    with pytest.raises(InvalidInput, match="must have 2 cells at most, line 2 has more; put a text with a comma"):
        opened(images, [index % 2 for index in range(40)], tail=",x")
    assert len(opened(images, [index % 2 for index in range(40)], tail=",,").examples) == 40


def test_a_column_that_is_there_twice_is_refused(images):
    with pytest.raises(InvalidInput, match="must have each column once, it has label more often"):
        opened(images, [index % 2 for index in range(40)], header="path,label,Label", tail=",1")


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_table_is_a_dataset_or_one_sentence(images, data):
    cell = st.one_of(
        st.sampled_from(["0.png", "1.png", "./0.png", "#", "0.png#1", "0", "1", "nan", "train", "x" * 300, "9" * 5000]),
        st.text(max_size=6),
    )
    rows = data.draw(st.lists(st.lists(cell, max_size=5), max_size=6))
    header = data.draw(st.sampled_from(["path,label", "path,label,split", "label,path,group", "path"]))
    text = "\n".join([header, *(",".join(row) for row in rows)])
    (images / "any.csv").write_bytes(text.encode(errors="surrogatepass"))
    try:
        open_dataset(images / "any.csv")
    except InvalidInput as error:
        assert "any.csv" in str(error) or "image" in str(error)


def test_a_folder_that_may_be_the_split_that_is_missing_is_named(tmp_path):
    for name in ("train", "val", "test_images"):
        (tmp_path / name).mkdir()
    with pytest.raises(InvalidInput, match="it lacks test; test_images may be meant, then rename; make them"):
        open_dataset(tmp_path)
