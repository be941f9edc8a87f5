"""Measurements by others: the file is complete, the committed comparison meets its bars, and some rows run live."""

import csv
import io
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from bench.cards.contexts import ContextSize
from bench.cards.gpus import GPUS
from bench.commands.published import _view
from bench.emulate.pool import Job
from bench.published import lora_layers as lora
from bench.published import older
from bench.published.comparison import HeldMeasurement, summarize, write_comparisons
from bench.published.emulations import Emulated, Peaks
from bench.published.figure import draw_comparisons
from bench.published.measurements import MEMORY_CSV, Measurement, read_measurements
from bench.published.rerun import SCRIPTS, run_script, script_of
from bench.report.table_formats import Printer
from bench.units import MIB
from fptplus import InvalidInput

RESULTS = Path(__file__).parents[3] / "results" / "published"


@pytest.fixture(scope="module")
def pool(emulated_pool):
    """Emulated cards, where there can be any."""
    return emulated_pool


def row(**changes):
    facts = {"source": "timm results", "model": "vit_tiny_patch16_224", "res": 224, "batch": 2, "method": "full"}
    facts |= {"precision": "fp16 autocast", "attention": "eager", "optimizer": "sgd nesterov", "gpu": "RTX 3090"}
    facts |= {"torch": "1.12+cu113", "counter": "max_memory_allocated", "measured_mib": 1000.0, "rounding_mib": 0.5}
    return Measurement(**(facts | {"card": "rtx3090", "not_stated": "", "note": ""} | changes))


def emulated(allocated_mib=1000, reserved_mib=1100, context=None, ran_with=None, unknown=""):
    sizes = {"allocated_bytes": int(allocated_mib * MIB), "reserved_bytes": int(reserved_mib * MIB)}
    peaks = Peaks(**sizes, ran=True, unknown_workspaces=unknown)
    return Emulated(peaks=peaks, context=context, ran_with=ran_with)


def compared(measurement, result):
    return HeldMeasurement(measurement=measurement, emulated=result)


def test_the_file_has_66_rows_of_eleven_sources_and_none_twice():
    rows = read_measurements()
    assert len(rows) == len(set(rows)) == 66
    assert len({one.source.partition("optimum-benchmark")[0] for one in rows}) == 11
    assert Counter(one.counter for one in rows) == {
        "ran": 20,
        "did not run": 18,
        "max_memory_allocated": 12,
        "max_memory_reserved": 7,
        "not stated": 5,
        "nvidia-smi process": 3,
        "NVML device": 1,
    }


def test_every_row_says_where_it_is_from_and_what_is_open():
    for one in read_measurements():
        assert one.source and one.model and one.note and one.gpu
        assert one.measured_mib > 0 and one.rounding_mib > 0
        assert one.card in GPUS or one.not_stated
        assert one.card == "" or script_of(one) is SCRIPTS[one.source.split()[0]]


def test_a_batch_that_did_not_run_is_larger_than_the_one_that_ran():
    ran = {one.model: one.batch for one in read_measurements() if one.counter == "ran"}
    larger = [one for one in read_measurements() if one.counter == "did not run"]
    assert all(one.batch > ran[one.model] for one in larger)


def test_an_unknown_counter_is_refused():
    with pytest.raises(InvalidInput, match="counter must be one of .*, got 'free memory'"):
        row(counter="free memory")


def test_an_error_counts_beyond_the_rounding_of_the_print():
    assert compared(row(rounding_mib=5), emulated(allocated_mib=1006.9)).verdict == "within"
    assert compared(row(rounding_mib=5), emulated(allocated_mib=1007.1)).verdict == "beyond"
    assert compared(row(), emulated(allocated_mib=1003)).error_pct == pytest.approx(0.3)


def test_reserved_memory_has_a_wider_bar_and_a_miss_says_what_is_not_known():
    measurement = row(counter="max_memory_reserved")
    assert compared(measurement, emulated(reserved_mib=1009)).is_met
    missed = compared(measurement, emulated(reserved_mib=980, unknown="convolution"))
    assert missed.is_met is False
    assert missed.reason == "scratch memory inside cuDNN is not known: convolution"


def test_what_a_source_leaves_open_is_not_judged():
    one = compared(row(not_stated="batch"), emulated(allocated_mib=2000))
    assert (one.verdict, one.is_met, one.reason) == ("", None, "not stated: batch")
    assert one.error_pct == pytest.approx(100)


def test_a_process_has_its_context_besides_the_segments():
    context = ContextSize(low_bytes=100 * MIB, typical_bytes=200 * MIB, high_bytes=300 * MIB, source="")
    one = compared(row(counter="nvidia-smi process"), emulated(context=context))
    assert one.emulated_mib == 1300
    assert one.range_mib == (1200, 1400)


@pytest.mark.parametrize(
    ("counter", "ran_with", "verdict", "is_met"),
    [
        ("ran", (True, True), "ran", True),
        ("ran", (False, False), "did not run", False),
        ("did not run", (False, False), "did not run", True),
        ("did not run", (True, True), "ran", False),
        ("did not run", (False, True), "undecided", None),
    ],
)
def test_a_bound_is_what_the_card_did_with_the_largest_or_the_smallest_context(counter, ran_with, verdict, is_met):
    one = compared(row(counter=counter), emulated(ran_with=ran_with))
    assert (one.verdict, one.is_met, one.error_pct) == (verdict, is_met, None)


def test_a_row_without_a_script_stays_empty(tmp_path):
    one = compared(row(card="", not_stated="script"), None)
    write_comparisons([one], tmp_path / "memory.csv")
    (written,) = csv.DictReader((tmp_path / "memory.csv").read_text().splitlines())
    assert written["emulated_mib"] == written["error_pct"] == written["verdict"] == written["emulated_on"] == ""
    assert written["reason"] == "not stated: script"


def test_the_summary_counts_what_is_judged():
    rows = [
        compared(row(), emulated(allocated_mib=1001)),
        compared(row(), emulated(allocated_mib=1100)),
        compared(row(counter="ran"), emulated(ran_with=(True, True))),
        compared(row(counter="did not run"), emulated(ran_with=(False, True))),
        compared(row(not_stated="script", card=""), None),
    ]
    found = summarize(rows)
    assert (found.num_rows, found.num_held, found.num_within, found.num_open) == (5, 2, 1, 1)
    assert found.median_error_pct == pytest.approx((0.1 + 10) / 2)
    assert (found.num_bounds, found.num_bounds_met, found.num_bounds_undecided) == (2, 1, 1)


def test_the_table_fits_80_columns():
    comparisons = [compared(one, emulated(ran_with=(False, False))) for one in read_measurements()]
    console = Console(width=80, file=io.StringIO())
    Printer(console=console).show([], _view("source", comparisons))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("…" in line for line in lines) == 0
    assert any("vit_base_patch14_reg4_dinov2" in line and "19,456" in line for line in lines)
    assert "not met: torchvision vit_l_16, batch 64, reserved" in lines


def test_the_figure_is_drawn_as_png_and_svg(tmp_path):
    draw_comparisons([compared(row(), emulated()), compared(row(not_stated="batch"), emulated())], tmp_path / "memory")
    picture = Image.open(tmp_path / "memory.png")
    assert picture.size == (1080, 840)
    assert len(picture.convert("RGB").getcolors(10**6)) > 10
    assert (tmp_path / "memory.svg").read_text().startswith("<?xml")


def committed():
    with (RESULTS / "memory.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_committed_comparison_is_of_the_rows_of_the_file():
    columns = ("source", "model", "batch", "method", "precision", "counter")
    with MEMORY_CSV.open(encoding="utf-8", newline="") as file:
        measured = [[*(one[name] for name in columns), float(one["measured_mib"])] for one in csv.DictReader(file)]
    assert [[*(one[name] for name in columns), float(one["measured_mib"])] for one in committed()] == measured
    assert all(one["reason"] for one in committed() if not one["emulated_mib"])
    assert all(one["emulated_on"] and one["emulated_torch"] for one in committed() if one["emulated_mib"])


@pytest.mark.parametrize(("counter", "bar_pct", "num_rows"), [("allocated", 0.2, 11), ("reserved", 1.0, 7)])
def test_committed_figures_with_a_known_script_are_within_their_bar(counter, bar_pct, num_rows):
    held = [one for one in committed() if one["bar_pct"] and one["counter"] == f"max_memory_{counter}"]
    assert len(held) == num_rows
    for one in held:
        off_mib = abs(float(one["emulated_mib"]) - float(one["measured_mib"])) - float(one["rounding_mib"])
        assert one["verdict"] == "within"
        assert off_mib <= bar_pct / 100 * float(one["measured_mib"])


def test_the_committed_card_ran_what_ran_and_no_larger_batch():
    bounds = [one for one in committed() if one["counter"] in ("ran", "did not run")]
    assert {one["verdict"] for one in bounds if one["counter"] == "ran"} == {"ran"}
    larger = Counter(one["verdict"] for one in bounds if one["counter"] == "did not run")
    assert larger == {"did not run": 17, "undecided": 1}


LIVE = ("rasbt/pytorch-memory-optim", "transformer-benchmark.github.io", "headless-start/peft-lora-vit")


def test_three_scripts_run_live_and_meet_their_bars(pool):
    rows = [next(one for one in read_measurements() if one.source.startswith(source)) for source in LIVE]
    jobs = [Job(gpu=GPUS[one.card], arguments=(one,), environment=script_of(one).environment) for one in rows]
    for one, peaks in zip(rows, pool.map(run_script, jobs), strict=True):
        assert compared(one, Emulated(peaks=peaks, context=None, ran_with=None)).verdict == "within", (one, peaks)


def test_a_script_stops_at_the_capacity_of_its_card(pool):
    large = row(counter="did not run", batch=1024, measured_mib=24259.0)
    (peaks,) = pool.map(run_script, [Job(gpu=GPUS["t4"], arguments=(large,))])
    assert not peaks.ran
    assert peaks.reserved_bytes <= GPUS["t4"].memory_bytes


def test_older_attention_computes_what_today_s_does():
    from timm.layers import Attention

    attention = Attention(32, num_heads=4, qkv_bias=True).eval()
    tokens = torch.randn(2, 5, 32)
    for select in (False, True):
        torch.testing.assert_close(older.PlainAttention(attention, select=select)(tokens), attention(tokens))


def test_two_denominators_step_towards_lower_loss():
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = older.TwoDenominators([weight], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert abs(weight.item()) < 2


def test_ddp_buckets_are_once_the_trained_parameters():
    model = torch.nn.Sequential(*(torch.nn.Linear(1500, 1500) for _ in range(6)))
    model[0].requires_grad_(False)
    buckets = older.ddp_buckets(model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(bucket.numel() for bucket in buckets) == trained
    assert len(buckets) > 1


def test_lora_of_two_products_has_the_gradients_of_autograd():
    x, down, up = (torch.randn(shape, requires_grad=True, dtype=torch.float64) for shape in ((3, 6), (2, 6), (6, 2)))
    assert torch.autograd.gradcheck(lora._TwoProducts.apply, (x, down, up))
