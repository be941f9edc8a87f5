"""One list of fields distinguishes cells, and every record has all of them."""

import ast
from dataclasses import fields, replace
from pathlib import Path

import pytest

from bench.cells.config import CellConfig
from bench.cells.identity import IDENTITY, MACHINE, SIZE, identity_in_words, identity_of
from bench.records.record import Record, new_record

ROOT = Path(__file__).parents[3]
LORA = CellConfig(method="lora", model="vit_b", res=512)
CHANGES = {
    "method": "full",
    "model": "vit_l",
    "res": 256,
    "batch_size": 8,
    "precision": "bf16",
    "attention": "sdpa",
    "checkpointing": "block",
    "optimizer": "sgd",
    "zero_grad": "after_forward",
    "accumulation_steps": 4,
    "clipping": "none",
    "drop_path": 0.1,
    "averaging": "ema",
    "lora_rank": 8,
    "lora_targets": "qkv,proj",
    "alloc_conf": "expandable_segments:True",
    "num_classes": 2,
    "gpu": "h200",
    "seed": 1,
    "weights": "some.pt",
    "vram_bytes": 2**33,
}


def test_every_field_of_a_cell_identifies_it_and_its_record_has_a_column_for_it():
    assert set(IDENTITY) == {field.name for field in fields(CellConfig)} < {field.name for field in fields(Record)}
    assert {*MACHINE, *SIZE} < set(IDENTITY)


@pytest.mark.parametrize("name", CHANGES)
def test_a_record_has_the_identity_of_its_cell_and_of_no_other(name):
    lora = {} if name != "method" else {"lora_rank": None, "lora_targets": None}
    other = replace(LORA, **{name: CHANGES[name]} | lora)
    own, without = identity_of(new_record(LORA), without=("device",)), ("device",)
    assert own == identity_of(LORA, without=without) != identity_of(other, without=without)
    assert identity_of(new_record(other), without=without) == identity_of(other, without=without)


def test_epochs_identify_a_cell_and_none_are_none():
    some = replace(LORA, epochs=2, epoch_images=64)
    assert new_record(LORA).epochs is None and LORA.epochs == 0
    assert identity_of(new_record(some), without=("device",)) == identity_of(some, without=("device",))
    assert identity_of(some) != identity_of(LORA)


def test_records_of_two_devices_are_apart():
    one, other = (replace(new_record(LORA), device=name) for name in ("NVIDIA A100", "NVIDIA H200"))
    assert identity_of(one) != identity_of(other)
    assert identity_of(one, without=MACHINE) == identity_of(other, without=MACHINE)


def test_only_what_is_not_the_default_is_put_into_words():
    assert identity_in_words(LORA) == "lora vit_b, 512 px, batch 16, fp32, eager, none, adamw"
    other = replace(LORA, seed=3, num_classes=2, weights="some.pt", gpu="h200")
    expected = "lora vit_b, 512 px, batch 16, fp32, eager, none, adamw, num_classes 2, seed 3, weights some.pt"
    assert identity_in_words(other) == identity_in_words(new_record(other)) == expected


def test_no_module_but_identity_lists_the_axes_of_a_cell():
    """A tuple or list of plain names with these four is a second list of what identifies a cell."""
    axes = {"precision", "attention", "checkpointing", "optimizer"}
    for path in (ROOT / "bench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                names = {item.value for item in node.elts if isinstance(item, ast.Constant)}
                assert not axes <= names, f"{path}:{node.lineno}"
