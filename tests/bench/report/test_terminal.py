"""Tables on the terminal explain a verdict that the CUDA context decides."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from bench.cards.gpus import GPUS
from bench.cells.config import CellConfig
from bench.predict.advice import Advice
from bench.records.record import new_record
from bench.report.terminal import advice_table, print_tables
from bench.units import MIB

CARD = replace(GPUS["a6000"], memory_bytes=1000 * MIB)


@pytest.mark.parametrize("width", [80, 180])
def test_the_table_of_advice_explains_a_maybe_below(width):
    left_bytes = (CARD.context.low_bytes + CARD.context.high_bytes) // 2
    rows = [("full", "no", 2000 * MIB), ("lora", "maybe", CARD.memory_bytes - left_bytes), ("linear", "yes", 10 * MIB)]
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
    low, high = (f"{size / MIB:,.0f}" for size in (CARD.context.low_bytes, CARD.context.high_bytes))
    footnote = f"LoRA: whether it fits depends on the CUDA context, known between {low} and {high} MiB"
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
    ends = re.findall(r"^ *Linear probing.*?(\S+) *$", console.export_text(), re.MULTILINE)
    assert ends == ["yes", "maybe", "no", "MiB"], "nothing where nothing is predicted, and one footnote"
