import re
from dataclasses import fields, replace

import pytest

from bench.cells.config import PROFILES, CellConfig, Setting
from bench.cells.grid import SweepConfig
from bench.cells.step_options import STEP_OPTIONS, axes_in_words
from bench.records.record import Record, new_record
from bench.units import parse_bytes
from fptplus import InvalidInput
from methods import METHODS

CELL = CellConfig(method="full", model="vit_b", res=512)
LORA = CellConfig(method="lora", model="vit_b", res=512)


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
        "zero_grad": "after_forward",
        "accumulation_steps": 4,
        "clipping": "none",
        "drop_path": 0.1,
        "averaging": "ema",
        "lora_rank": 8,
        "lora_targets": "qkv,proj",
        "alloc_conf": "expandable_segments:True",
    }
    cell = replace(LORA if field.startswith("lora") else CELL, epoch_images=32)  # as many as an epoch needs
    assert replace(cell, **{field: others[field]}).cell_id != cell.cell_id


def test_records_made_before_a_field_was_added_keep_their_names():
    assert CELL.cell_id == "01eb5dd5a72ca23a"
    assert LORA.cell_id == "5b8fb220ee6bd32d"


def test_lora_s_own_rank_and_targets_are_those_of_a_cell_that_names_none():
    assert (LORA.lora_rank, LORA.lora_targets) == (16, "query,value")
    assert replace(LORA, lora_targets=" value , query ") == LORA
    assert (CELL.lora_rank, CELL.lora_targets) == (None, None)
    assert replace(LORA, method="full") == CELL


def test_options_are_asked_of_the_methods_that_take_them():
    cells = SweepConfig(lora_rank=(8, 4), clipping=("none",)).cells()
    assert sum(cell.method == "lora" for cell in cells) == 2
    assert len(cells) == len(METHODS) + 1 and {cell.clipping for cell in cells} == {"none"}
    passes = SweepConfig(method=("fptplus",), averaging=("ema",), drop_path=(0.1,)).cells("cuda")
    assert [(cell.averaging, cell.drop_path) for cell in passes] == [("ema", 0.1), ("none", 0.0)]


def test_every_command_can_ask_for_what_a_cell_has():
    asked = {"zero_grad": "after_forward", "accumulation_steps": 2, "clipping": "none", "drop_path": 0.2}
    asked |= {"averaging": "ema", "lora_rank": 8, "lora_targets": "fc1"}
    (cell,) = Setting(method=("lora",), alloc_conf="max_split_size_mb:64", **asked).cells()
    assert {name: getattr(cell, name) for name in asked} == asked
    repeated = {name: (value,) for name, value in asked.items()}
    assert SweepConfig(method=("lora",), alloc_conf="max_split_size_mb:64", **repeated).cells() == [cell]


def test_only_what_is_not_the_default_is_put_into_words():
    assert axes_in_words(LORA) == "fp32, eager, none, adamw"
    changed = replace(LORA, lora_rank=8, clipping="none", alloc_conf="expandable_segments:True")
    expected = "fp32, eager, none, adamw, clipping none, alloc_conf expandable_segments:True, lora_rank 8"
    assert axes_in_words(changed) == axes_in_words(new_record(changed)) == expected


def test_records_made_before_there_were_options_have_the_defaults():
    earlier = Record(
        **dict.fromkeys(("precision", "attention", "checkpointing", "optimizer"), ""),
        method="lora",
        model="vit_b",
        res=512,
        batch_size=16,
    )
    assert all(getattr(earlier, name) == getattr(LORA, name) for name in (*STEP_OPTIONS, "alloc_conf"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "loar"}, "method must be one of full, linear, .*, got 'loar'; did you mean lora?"),
        ({"res": 0}, "res must be at least 1, got 0"),
        ({"batch_size": -4}, "batch-size must be at least 1, got -4"),
        ({"num_classes": 0}, "num-classes must be at least 1, got 0"),
        ({"precision": "fp8"}, "precision must be one of fp32, bf16, fp16, bf16_weights, got 'fp8'"),
        ({"attention": "flash"}, "attention 'flash' must be used with precision bf16 or fp16, got fp32"),
        ({"precision": "fp16", "device": "cpu"}, "precision fp16 must be measured on a CUDA device, got cpu"),
        ({"zero_grad": "never"}, "zero_grad must be one of before_forward, after_forward, got 'never'"),
        ({"accumulation_steps": 0}, "accumulation-steps must be at least 1, got 0"),
        ({"accumulation_steps": 3}, "accumulation-steps must divide the batch of 16 images, got 3"),
        ({"drop_path": 1.0}, "drop-path must be at least 0 and below 1, got 1"),
        ({"drop_path": float("nan")}, "drop-path must be at least 0 and below 1, got nan"),
        ({"lora_rank": 8}, "lora-rank and lora-targets must be left out with method full"),
        ({"method": "lora", "lora_rank": 0}, "lora-rank must be at least 1 and at most 65536, got 0"),
        ({"method": "lora", "lora_targets": "q,v"}, "lora-targets must be some of query, key, value, qkv, .*'q,v'"),
        ({"method": "lora", "lora_targets": "fc1,fc1"}, "lora-targets must be some of .*, each once"),
        ({"method": "lora", "lora_targets": "qkv,key"}, "lora-targets must name qkv or its parts"),
        ({"method": "fptplus_preloading", "averaging": "ema"}, "averaging must be left out with .*, which takes no"),
        ({"alloc_conf": "expandable_segments"}, "alloc-conf must be settings such as expandable_segments:True"),
    ],
)
def test_a_value_out_of_range_is_answered_in_one_sentence(change, sentence):
    with pytest.raises(InvalidInput, match=sentence) as error:
        replace(CELL, **change)
    assert "\n" not in str(error.value)


def test_lora_s_options_are_refused_where_lora_is_not_asked_for():
    with pytest.raises(InvalidInput, match="lora-rank and lora-targets must be given with method lora"):
        SweepConfig(method=("full",), lora_rank=(8,)).cells()


@pytest.mark.parametrize(("text", "expected"), [("48GiB", 48 * 2**30), ("11.5 gib", 23 * 2**29), ("800MB", 8 * 10**8)])
def test_amounts_of_memory_are_read_with_their_unit(text, expected):
    assert parse_bytes("gpu-memory", text) == expected


@pytest.mark.parametrize("text", ["48", "GiB", "0GiB", "-1GiB", "48 TB", ""])
def test_an_amount_without_number_or_unit_is_refused(text):
    with pytest.raises(InvalidInput, match=f"gpu-memory must be an amount above 0 .*got {re.escape(repr(text))}"):
        parse_bytes("gpu-memory", text)
