import re
from dataclasses import fields, replace

import pytest

from bench.config import PROFILES, CellConfig
from bench.grid import SweepConfig
from bench.units import parse_bytes
from fptplus import InvalidInput
from methods import METHODS

CELL = CellConfig(method="full", model="vit_b", res=512)


def test_the_default_is_the_paper_s_setting():
    cells = SweepConfig().cells()
    assert [cell.method for cell in cells] == list(METHODS)
    assert {(c.model, c.res, c.batch_size, c.precision, c.attention, c.checkpointing, c.optimizer) for c in cells} == {
        ("vit_b", 512, 16, "fp32", "eager", "none", "adamw")
    }


def test_a_profile_sets_the_axes_that_are_not_given():
    cell = SweepConfig(profile=("fast",), attention=("efficient",)).cells()[0]
    assert (cell.precision, cell.attention, cell.optimizer) == ("bf16", "efficient", "adamw_fused")
    assert all(profile.keys() == PROFILES["paper"].keys() for profile in PROFILES.values())


def test_a_sweep_is_every_combination_once():
    config = SweepConfig(method=("full", "lora", "full"), model=("vit_s", "vit_b"), res=(128, 256))
    assert len(config.cells()) == 8


@pytest.mark.parametrize("field", [field.name for field in fields(CellConfig)])
def test_every_field_of_a_cell_changes_its_id(field):
    others = {
        "method": "lora",
        "model": "vit_l",
        "res": 256,
        "batch_size": 8,
        "precision": "bf16",
        "attention": "sdpa",
        "checkpointing": "block",
        "optimizer": "sgd",
        "num_classes": 2,
        "device": "cpu",
        "gpu": "h200",
        "seed": 1,
        "weights": "some.pt",
        "epochs": 1,
        "epoch_images": 64,
        "vram_bytes": 2**33,
    }
    cell = replace(CELL, epoch_images=32)  # as many as an epoch needs
    assert replace(cell, **{field: others[field]}).cell_id != cell.cell_id


def test_records_made_before_a_field_was_added_keep_their_names():
    assert CELL.cell_id == "01eb5dd5a72ca23a"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "loar"}, "method must be one of full, linear, .*, got 'loar'; did you mean lora?"),
        ({"res": 0}, "res must be at least 1, got 0"),
        ({"batch_size": -4}, "batch-size must be at least 1, got -4"),
        ({"num_classes": 0}, "num-classes must be at least 1, got 0"),
        ({"precision": "fp8"}, "precision must be one of fp32, bf16, fp16, got 'fp8'"),
        ({"attention": "flash"}, "attention 'flash' must be used with precision bf16 or fp16, got fp32"),
        ({"precision": "fp16", "device": "cpu"}, "precision fp16 must be measured on a CUDA device, got cpu"),
    ],
)
def test_a_value_out_of_range_is_answered_in_one_sentence(change, sentence):
    with pytest.raises(InvalidInput, match=sentence) as error:
        replace(CELL, **change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "expected"), [("48GiB", 48 * 2**30), ("11.5 gib", 23 * 2**29), ("800MB", 8 * 10**8)])
def test_amounts_of_memory_are_read_with_their_unit(text, expected):
    assert parse_bytes("gpu-memory", text) == expected


@pytest.mark.parametrize("text", ["48", "GiB", "0GiB", "-1GiB", "48 TB", ""])
def test_an_amount_without_number_or_unit_is_refused(text):
    with pytest.raises(InvalidInput, match=f"gpu-memory must be an amount above 0 .*got {re.escape(repr(text))}"):
        parse_bytes("gpu-memory", text)
