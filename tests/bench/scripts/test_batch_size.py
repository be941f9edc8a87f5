"""The largest batch is found by running the script with its own option."""

import math

import pytest

from bench.scripts.batch_size import check_name, find_batch_size, largest_that_fits, with_option
from fptplus import InvalidInput


@pytest.mark.parametrize(
    ("words", "name", "changed"),
    [
        ("train.py --batch-size 8 --lr 1", "batch-size", "train.py --batch-size 32 --lr 1"),
        ("train.py --batch_size=8", "batch-size", "train.py --batch_size=32"),
        ("train.py --batch-size=8", "--batch-size", "train.py --batch-size=32"),
        ("train.py data.batch_size=8", "data.batch_size", "train.py data.batch_size=32"),
        ("train.py -b 8", "b", "train.py -b 32"),
        ("train.py --lr 1", "batch-size", "train.py --lr 1 --batch-size 32"),
        ("train.py", "b", "train.py -b 32"),
        ("train.py --per_device_train_batch_size 4", "per-device-train-batch-size",
         "train.py --per_device_train_batch_size 32"),
    ],
)  # fmt: skip
def test_the_option_is_set_as_the_script_spells_it(words, name, changed):
    assert " ".join(with_option(tuple(words.split()), name, 32)) == changed


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("train.py --lr 1 --batch-size 8", ("--batch-size", 8)),
        ("train.py --per_device_train_batch_size=4", ("--per_device_train_batch_size", 4)),
        ("train.py -b 8", ("-b", 8)),
        ("train.py data.batch_size=8", ("data.batch_size", 8)),
        ("train.py --eval-batch-size 8", None),
        ("train.py b 8", None),
        ("train.py --batch-size auto", None),
        ("train.py --batch-size", None),
    ],
)
def test_a_batch_size_is_found_by_its_usual_names(words, found):
    assert find_batch_size(tuple(words.split())) == found


@pytest.mark.parametrize("largest", [1, 2, 3, 7, 8, 31, 32, 33, 1000])
def test_the_largest_that_fits_is_found_in_few_tries(largest):
    tried = []

    def needs(number):
        """As an allocator takes it: by steps of 16 MiB, which the limit is not one of."""
        tried.append(number)
        return 300 + 16 * math.ceil(number * 3 / 16) if number <= largest else None

    assert largest_that_fits(needs, 310 + 3 * largest) == largest
    assert len(tried) == len(set(tried)) <= 2 * largest.bit_length() + 4


def test_memory_in_proportion_is_found_at_once():
    tried = []
    limit = 10_000
    found = largest_that_fits(lambda n: tried.append(n) or (500 + 7 * n if 500 + 7 * n <= limit else None), limit)
    assert found == 1357 and tried == [1, 2, 1357, 1358]


@pytest.mark.parametrize("power", [0.5, 2, 3])
def test_memory_that_grows_otherwise_is_found_too(power):
    tried = []
    assert largest_that_fits(lambda n: tried.append(n) or (n**power if n <= 777 else None), 777**power) == 777
    assert len(tried) < 45


def test_none_may_fit_and_all_may():
    assert largest_that_fits(lambda number: None, 1) is None
    assert largest_that_fits(lambda number: 1, 2, most=64) == 64


@pytest.mark.parametrize("name", ["", "--", "batch size", "a\n"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InvalidInput, match="find-batch-size must be the name of an option of the script"):
        check_name(name)
