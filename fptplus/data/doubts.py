"""What looks like a mistake in a data set that can be read: reported in sentences, before anything is computed."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from .dataset import Example
from .splits import SPLIT_NAMES

MAX_NAMED = 5

MISSING_VALUES = {"nan", "none", "null", "na", "n/a", "#n/a", "<na>", "nat", "undefined", "unknown"}
"""What tables write for a missing value, in lower case."""

_SPLIT_WORDS = {*SPLIT_NAMES, "trainset", "valset", "testset", "tests", "dev", "eval", "evaluation", "holdout"}


def looks_like_a_split(name: str) -> bool:
    """Return whether a name contains a word for training, validation or test: `train_images`, `TestSet`, `val2`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.findall(r"[A-Za-z]+", spaced)]
    return any(word in _SPLIT_WORDS for word in (*words, "".join(words)))


def doubts_about_classes(classes: Sequence[str], examples: Iterable[Example]) -> list[str]:
    """Report classes that look like splits, like missing values, or like each other."""
    counts, sentences = Counter(example.label for example in examples), []
    if splits := [name for name in classes if looks_like_a_split(name)]:
        sentences.append(
            f"taken as classes, though they look like names of splits: {named(splits)}; "
            "if they are splits, call them train, val and test"
        )
    for label, name in enumerate(classes):
        if name.lower() in MISSING_VALUES and counts[label]:
            sentences.append(
                f"the label {name!r} of {counted(counts[label], 'image')} looks like a missing value; "
                "leave these images out unless it is a class"
            )
    alike = defaultdict(list)
    for name in classes:
        alike[re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()].append(name)
    for names in alike.values():
        if len(names) > 1:
            sentences.append(f"taken as different classes, though only their spelling differs: {named(names)}")
    return sentences


def doubts_about_groups(examples: Sequence[Example]) -> list[str]:
    """Report groups, such as patients, whose images are in several splits."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for example in examples:
        if example.group is not None:
            splits[example.group].add(example.split)
    apart = [group for group, found in splits.items() if len(found) > 1]
    if not apart:
        return []
    pairs = Counter(" and ".join(sorted(splits[group], key=("train", "val", "test").index)) for group in apart)
    counts = ", ".join(f"{count} in {pair}" for pair, count in pairs.most_common())
    return [
        f"{len(apart)} of {len(splits)} patients or groups have images in several splits ({counts}; "
        f"{named(sorted(apart))}): scores will look better than on new patients; give each one split"
    ]


def doubts_about_copies(copies: Sequence[Sequence[int]], examples: Sequence[Example]) -> list[str]:
    """Report files with the same content, above all in several splits or with several labels.

    Args:
        copies: positions of examples whose files are the same, at least two each.
        examples: all of them.
    """
    if not copies:
        return []
    splits = sum(len({examples[position].split for position in same}) > 1 for same in copies)
    labels = sum(len({examples[position].label for position in same}) > 1 for same in copies)
    extra = sum(len(same) - 1 for same in copies)
    first, second = (examples[position].name for position in copies[0][:2])
    return [
        f"byte for byte the same as another: {counted(extra, 'file')} (such as {second}, the same as {first}); images "
        f"with copies in several splits: {splits}, with several labels: {labels}; remove the copies"
    ]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 image`, `2 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def named(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(map(str, names[:MAX_NAMED])) + more
