"""Training, validation and test part of a dataset: drawn at random where there is none, checked where there is."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from fptplus.errors import InvalidInput

from .dataset import SPLITS, ImageDataset, Split

VAL_SHARE, TEST_SHARE = 0.1, 0.2
"""The rest, 70 %, is for training (FPT+, Sec. IV-A)."""

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders and columns call a split, in lower case."""


def random_split(
    labels: Sequence[int], seed: int, *, val_share: float = VAL_SHARE, test_share: float = TEST_SHARE
) -> list[Split]:
    """A split for each example: 70/10/20 % of every class, at random.

    Of a class of three or more, each split gets at least one; of two, training and test; one alone is for training.

    Args:
        labels: class of each example.
        seed: the same one gives the same splits.
        val_share, test_share: of each class; a share of 0 leaves that split out.
    """
    rng = np.random.default_rng(seed)
    of_class = defaultdict(list)
    for position, label in enumerate(labels):
        of_class[label].append(position)
    splits: list[Split] = ["train"] * len(labels)
    for label in sorted(of_class):
        positions = rng.permutation(of_class[label])
        num_test = _part(len(positions), test_share, enough=2)
        num_val = _part(len(positions), val_share, enough=3 if num_test else 2)
        for position in positions[:num_test]:
            splits[position] = "test"
        for position in positions[num_test : num_test + num_val]:
            splits[position] = "val"
    return splits


def _part(count: int, share: float, enough: int) -> int:
    """A share of a class, rounded, and at least one where the class has `enough` examples."""
    return max(round(count * share), int(share > 0 and count >= enough))


def checked(dataset: ImageDataset) -> ImageDataset:
    """The dataset, if it can be trained and evaluated on: every class in every split, two classes at least.

    Raises:
        InvalidInput: naming the class and the split that lack images.
    """
    if len(dataset.classes) < 2:
        raise InvalidInput(
            f"{dataset.name} must have two classes at least, it has {', '.join(dataset.classes)} alone; "
            "AUC is undefined on one class."
        )
    for split in SPLITS:
        _check_split(dataset, split)
    return dataset


def _check_split(dataset: ImageDataset, split: Split) -> None:
    present = set(dataset.labels(split))
    missing = [name for label, name in enumerate(dataset.classes) if label not in present]
    if not missing:
        return
    if not present:
        raise InvalidInput(f"the {split} split of {dataset.name} must hold images, it holds none.")
    if len(present) == 1:
        raise InvalidInput(
            f"the {split} split of {dataset.name} must hold every class, it holds class "
            f"{dataset.classes[present.pop()]!r} alone; AUC is undefined on one class."
        )
    classes = "class " + repr(missing[0]) if len(missing) == 1 else "classes " + ", ".join(map(repr, missing))
    raise InvalidInput(
        f"the {split} split of {dataset.name} must hold every class, it has no image of {classes}; "
        "add some, or leave the class out of all splits."
    )
