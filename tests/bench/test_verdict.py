"""A verdict says yes or no only where the CUDA context, whatever its size, would not change it."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from bench.advise import Advice
from bench.config import CellConfig
from bench.predict.contexts import ContextSize
from bench.predict.devices import GPUS
from bench.predict.verdict import verdict
from bench.record import new_record
from bench.report.terminal import advice_table, print_tables
from bench.units import MIB

CARD = replace(GPUS["a6000"], memory_bytes=1000 * MIB)
CONTEXT = ContextSize(low_bytes=100 * MIB, typical_bytes=150 * MIB, high_bytes=200 * MIB, source="here")


@pytest.mark.parametrize(
    ("reserved_bytes", "word"),
    [
        (0, "yes"),
        (800 * MIB, "yes"),
        (800 * MIB + 1, "maybe"),
        (900 * MIB, "maybe"),
        (900 * MIB + 1, "no"),
        (2000 * MIB, "no"),
    ],
)
def test_the_range_decides_between_its_edges(reserved_bytes, word):
    assert verdict(reserved_bytes, CARD, CONTEXT).word == word


def test_the_sentence_says_what_would_decide():
    yes, maybe, no = (verdict(mib * MIB, CARD, CONTEXT).sentence for mib in (700, 850, 950))
    assert yes == "fits: 100 MiB stay free with a CUDA context of 200 MiB"
    assert maybe == "fits if the CUDA context takes no more than 150 MiB; known between 100 and 200 MiB"
    assert no == "does not fit: 50 MiB are lacking with a CUDA context of 100 MiB"


def test_the_context_is_that_of_the_card_unless_another_is_given():
    reserved_bytes = CARD.memory_bytes - CARD.context.high_bytes
    assert verdict(reserved_bytes, CARD).word == "yes"
    assert verdict(reserved_bytes + 1, CARD).word == "maybe"


@pytest.mark.parametrize("width", [80, 180])
def test_the_table_of_advice_explains_a_maybe_below(width):
    left_bytes = (CARD.context.low_bytes + CARD.context.high_bytes) // 2
    rows = [("full", False, 2000 * MIB), ("lora", True, CARD.memory_bytes - left_bytes), ("linear", True, 10 * MIB)]
    advice = [
        Advice(
            method=method,
            fits=fits,
            process_bytes=reserved_bytes + CARD.context_bytes,
            headroom_bytes=CARD.memory_bytes - reserved_bytes - CARD.context_bytes,
            largest_batch=1,
            largest_res=64,
            remedies=(),
        )
        for method, fits, reserved_bytes in rows
    ]
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(advice_table(CellConfig(method="full", model="vit_b", res=512), CARD, advice))
    text = console.export_text()
    for title, word in (("Full", "no"), ("LoRA", "maybe"), ("Linear", "yes")):
        (row,) = re.findall(rf"^ *{title} .*$", text, re.MULTILINE)[:1]
        assert re.search(rf" {word} ", row), row
    footnote = f"LoRA fits if the CUDA context takes no more than {left_bytes / MIB:,.0f} MiB; known between"
    assert footnote in " ".join(text.split())


def test_the_table_of_a_run_explains_a_maybe_below():
    cell = CellConfig(method="linear", model="vit_b", res=512)
    left_bytes = (CARD.context.low_bytes + CARD.context.high_bytes) // 2
    records = [
        replace(new_record(cell), status="ok", predicted_peak_reserved_bytes=reserved_bytes)
        for reserved_bytes in (10 * MIB, CARD.memory_bytes - left_bytes, CARD.memory_bytes, None)
    ]
    console = Console(width=180, file=io.StringIO(), record=True)
    print_tables(records, console, CARD)
    ends = re.findall(r"^ *Linear probing .*?(\S+) *$", console.export_text(), re.MULTILINE)
    assert ends == ["yes", "maybe", "no", "MiB"], "nothing where nothing is predicted, and one footnote"
