from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fptplus import InvalidInput
from fptplus.data import Example, ImageDataset
from fptplus.data.splits import checked, random_split


def dataset(placed, classes=("cat", "dog", "owl")):
    """A dataset from (label, split) pairs."""
    examples = tuple(Example(str(i), label, split) for i, (label, split) in enumerate(placed))
    return ImageDataset("pets", classes, examples, lambda example: Image.new("RGB", (1, 1)))


EVERYWHERE = [(label, split) for label in range(3) for split in ("train", "val", "test")]


@given(st.lists(st.integers(0, 3), max_size=120), st.integers(0, 5))
def test_every_class_is_split_70_10_20_and_in_every_split_where_it_can_be(labels, seed):
    splits = random_split(labels, seed)
    assert splits == random_split(labels, seed)
    for label, count in Counter(labels).items():
        got = Counter(split for split, own in zip(splits, labels, strict=True) if own == label)
        assert abs(got["test"] - 0.2 * count) <= 0.8 and abs(got["val"] - 0.1 * count) <= 0.9
        assert got.total() == count and got["train"] >= 1
        assert count < 3 or len(got) == 3


def test_another_seed_gives_another_split_and_a_share_of_zero_none():
    assert random_split([0, 1] * 50, 0) != random_split([0, 1] * 50, 1)
    assert Counter(random_split([0] * 80, 0, val_share=1 / 8, test_share=0.0)) == {"train": 70, "val": 10}


def test_a_complete_dataset_passes():
    assert checked(dataset(EVERYWHERE)).classes == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("placed", "sentence"),
    [
        ([p for p in EVERYWHERE if p != (1, "val")], "val split of pets must hold every class, .* class 'dog';"),
        ([p for p in EVERYWHERE if p[1] != "test" or p[0] == 2], "test split .* holds class 'owl' alone; AUC is undef"),
        ([p for p in EVERYWHERE if p[1] != "test"], "test split of pets must hold images, it holds none"),
        ([p for p in EVERYWHERE if p[0] != 1], "train split of pets .* no image of class 'dog'"),
    ],
)
def test_what_a_split_lacks_is_named(placed, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        checked(dataset(placed))


def test_a_single_class_is_refused():
    with pytest.raises(InvalidInput, match="must have two classes at least, it has cat alone; AUC is undefined"):
        checked(dataset([p for p in EVERYWHERE if p[0] == 0], classes=("cat",)))
