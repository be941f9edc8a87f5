"""Training, validation and test parts of a dataset: drawn at random if there are none, checked if there are."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fptplus.errors import InvalidInput

from .dataset import SPLITS, ImageDataset, Split

VAL_SHARE, TEST_SHARE = 0.1, 0.2
"""Shares of validation and test images; the rest, 70 %, is for training (FPT+, Sec. IV-A)."""

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Names that folders and columns give to a split, in lower case."""


def random_split(
    labels: Sequence[int],
    seed: int,
    *,
    groups: Sequence[str | None] | None = None,
    val_share: float = VAL_SHARE,
    test_share: float = TEST_SHARE,
) -> list[Split]:
    """Draw a split for each example: 70/10/20 % of every class, at random.

    From a class of three or more, each split gets at least one; from a class of two, training and test get one each; a
    single one is for training. If examples belong to groups, whole groups are assigned, each by its rarest class.

    Args:
        labels: class index of each example.
        seed: random seed; the same seed gives the same splits.
        groups: group of each example; None for an example that stands for itself.
        val_share, test_share: share of each class; 0 leaves that split out.
    """
    if groups is not None and any(group is not None for group in groups):
        return _split_of_groups(labels, seed, groups, val_share, test_share)
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


def draw_splits(
    labels: Sequence[int], classes: Sequence[str], groups: Sequence[str | None], seed: int, *, name: str
) -> list[Split]:
    """Draw a `random_split` of a data set.

    Raises:
        InvalidInput: if keeping groups whole leaves a class out of a split, although it has enough images.
    """
    splits, counts = random_split(labels, seed, groups=groups), Counter(labels)
    found = {(label, split) for label, split in zip(labels, splits, strict=True)}
    for label, count in sorted(counts.items()):
        absent = [split for split in SPLITS if (label, split) not in found]
        if count >= len(SPLITS) and absent:
            own = {group for group, other in zip(groups, labels, strict=True) if other == label}
            raise InvalidInput(
                f"a random split of {name} keeps patients or groups whole, the {count} images of class "
                f"{classes[label]!r} are of {len(own)}, which leaves {' and '.join(absent)} without any; "
                "give splits of your own."
            )
    return splits


def _split_of_groups(
    labels: Sequence[int], seed: int, groups: Sequence[str | None], val_share: float, test_share: float
) -> list[Split]:
    """Do what `random_split` does, with one split for all examples of a group."""
    members: defaultdict[str | int, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[position if group is None else group].append(position)
    counts = Counter(labels)
    group_labels = [min((labels[p] for p in own), key=lambda label: (counts[label], label)) for own in members.values()]
    splits: list[Split] = ["train"] * len(labels)
    drawn = random_split(group_labels, seed, val_share=val_share, test_share=test_share)
    for positions, split in zip(members.values(), drawn, strict=True):
        for position in positions:
            splits[position] = split
    return splits


def _part(count: int, share: float, enough: int) -> int:
    """Return a share of a class, rounded, and at least one if the class has `enough` examples."""
    return max(round(count * share), int(share > 0 and count >= enough))


def checked(dataset: ImageDataset, *, cure: str = "") -> ImageDataset:
    """Return the dataset if it can be trained and evaluated on: every class in every split, at least two classes.

    Args:
        dataset: the dataset to check.
        cure: what to do if images are missing; "" for the obvious.

    Raises:
        InvalidInput: naming the class and the split that lack images.
    """
    if len(dataset.classes) < 2:
        raise InvalidInput(
            f"{dataset.name} must have two classes at least, it has {', '.join(dataset.classes)} alone; "
            "AUC is undefined on one class."
        )
    for split in SPLITS:
        _check_split(dataset, split, cure)
    return dataset


def _check_split(dataset: ImageDataset, split: Split, cure: str) -> None:
    present = set(dataset.labels(split))
    missing = [name for label, name in enumerate(dataset.classes) if label not in present]
    end = f"; {cure}" if cure else ""
    if not missing:
        return
    if not present:
        raise InvalidInput(f"the {split} split of {dataset.name} must hold images, it holds none{end}.")
    if len(present) == 1:
        raise InvalidInput(
            f"the {split} split of {dataset.name} must hold every class, it holds class "
            f"{dataset.classes[present.pop()]!r} alone; AUC is undefined on one class{end}."
        )
    classes = "class " + repr(missing[0]) if len(missing) == 1 else "classes " + ", ".join(map(repr, missing))
    raise InvalidInput(
        f"the {split} split of {dataset.name} must hold every class, it has no image of {classes}"
        f"{end or '; add some, or leave the class out of all splits'}."
    )


def checked_without(dataset: ImageDataset, unreadable: Sequence[str]) -> None:
    """Check that a dataset can be trained and evaluated on without the named images, which cannot be read.

    Raises:
        InvalidInput: naming the class and the split that have no images left.
    """
    if not unreadable:
        return
    left_out = set(unreadable)
    kept = tuple(example for example in dataset.examples if example.name not in left_out)
    those = f"the {len(unreadable)} that cannot be read (the first is {unreadable[0]})"
    if not kept:
        raise InvalidInput(f"{dataset.name} must hold images that can be read, it holds only {those}.")
    cure = f"it lost {those}: repair them, or leave the class out, and preload into another folder"
    checked(replace(dataset, examples=kept), cure=cure)
