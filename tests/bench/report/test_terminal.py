"""Tables on the terminal explain a verdict that the CUDA context decides."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from bench.cards.gpus import GPUS
from bench.cells.config import CellConfig
from bench.predict.advice import Advice
from bench.records.record import COLUMNS, new_record
from bench.report.table_formats import Printer
from bench.report.terminal import advice_view, print_records
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
    Printer(console=console).show([], advice_view(CellConfig(method="full", model="vit_b", res=512), CARD, advice))
    text = console.export_text()
    for title, word in (("Full", "no"), ("LoRA", "maybe"), ("Linear", "yes")):
        (row,) = re.findall(rf"^ *{title} .*$", text, re.MULTILINE)[:1]
        assert re.search(rf" {word} ", row), row
    assert "LoRA would not fit with any change of attention, precision, checkpointing." in " ".join(text.split())
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
    print_records(records, Printer(console=console), CARD)
    ends = re.findall(r"^ *Linear probing.*?(\S+) *$", console.export_text(), re.MULTILINE)
    assert ends == ["yes", "maybe", "no", "MiB"], "nothing where nothing is predicted, and one footnote"


def lines_of(print_on):
    console = Console(width=80, file=io.StringIO())
    print_on(Printer(console=console))
    return console.file.getvalue().splitlines()


def test_at_80_columns_remedies_are_readable_in_full():
    remedies = ({"attention": "sdpa", "precision": "bf16"}, {"attention": "sdpa", "checkpointing": "block"})
    advice = Advice(
        method="vpt",
        fits="no",
        process_bytes=1_234_567 * MIB,
        headroom_bytes=-1_234_567 * MIB,
        largest_batch=None,
        largest_res=4096,
        remedies=remedies,
    )
    lines = lines_of(lambda printer: printer.show([], advice_view(CellConfig(**VPT), CARD, [advice])))
    assert max(map(len, lines)) <= 80 and "1,234,567" in " ".join(lines)
    sentence = (
        "Prompt-tuning (VPT-deep) would fit with attention sdpa + precision bf16, or with attention sdpa + "
        "checkpointing block."
    )
    assert sentence in " ".join(" ".join(lines).split())


VPT = {"method": "vpt", "model": "vit_l", "res": 640}


def test_at_80_columns_no_number_of_a_run_is_cut():
    columns = [name for name in COLUMNS if name.startswith("predicted_") and name.endswith("_bytes")]
    record = replace(
        new_record(CellConfig(method="lora", model="vit_l", res=2048, lora_rank=8, lora_targets="qkv,proj,fc1,fc2")),
        status="oom",
        status_detail="step 1, forward: CUDA out of memory. Tried to allocate 7.54 GiB. GPU 0 has a total capacity of "
        "23.55 GiB of which 1.09 GiB is free. 21.98 GiB allowed; " + 20 * "and so on ",
        device="a GPU with a long name",
        params_pct=100.0,
        predicted_throughput_img_s=1_234_567.0,
        predicted_energy_j_per_img=1_234_567.0,
        measured_process_bytes=1_234_567 * MIB,
        throughput_img_s=12_345.67,
        energy_j_per_img=1_234.56,
        mean_power_w=1_000.0,
        **dict.fromkeys(columns, 1_234_567 * MIB),
    )
    lines = lines_of(lambda printer: print_records([record], printer, CARD))
    assert max(map(len, lines)) <= 80 and not [line for line in lines if "…" in line]
    words = " ".join(lines).split()
    assert words.count("1,234,567") == 5 and {"12,345.67", "1,234.56", "1000", "100.00"} <= set(words)
    assert record.status_detail.strip() in " ".join(words)


@pytest.mark.parametrize(("high_s", "is_said"), [(0.013, False), (0.031, True)])
def test_a_timing_whose_spread_is_wide_is_printed_with_it(high_s, is_said):
    cell = CellConfig(method="linear", model="vit_b", res=512, device="cpu")
    times = {"step_time_s": 0.012, "step_time_p10_s": 0.011, "step_time_p90_s": high_s, "throughput_img_s": 1333.3}
    console = Console(width=80, file=io.StringIO(), record=True)
    print_records([replace(new_record(cell), device="a CPU", **times)], Printer(console=console), CARD)
    words = "Linear probing: its steps' times vary by ±83%, 80 % of them within 11 to 31 ms (median 12)"
    assert (words in " ".join(console.export_text().split())) is is_said
