"""Tables of predicted time: nothing is cut at 80 columns, and nothing in them could be taken for a measurement."""

import io

import pytest
from rich.console import Console

from bench.cards.gpus import GPUS
from bench.report.table_formats import Printer
from bench.report.time_tables import three_digits, time_view, training_view
from bench.timing.estimate import estimate_step
from bench.timing.operations import Operation, Product, StepWork, Touch
from bench.timing.training import TrainingEstimate


def products(count, phase):
    made = Product(4096, 4096, 4096, 1, "fp32")
    touches = (Touch(2**26, False), Touch(2**26, True))
    return [Operation("mm", "product", phase, "", 1, touches, "fp32", (made,), made.flops)] * count


WORK = StepWork(
    operations=(
        *products(30, "backward"),
        *products(20, "forward"),
        *(Operation("add", kind, "forward", "", 1, (Touch(4, True),), "fp32") for kind in ("elementwise", "copy")),
        *(
            Operation("add", kind, "update", "", 1, (Touch(4, True),), "fp32")
            for kind in ("optimizer", "norm", "other")
        ),
        *(Operation("add", kind, "loss", "", 1, (Touch(4, True),), "fp32") for kind in ("softmax", "elementwise")),
    ),
    num_operators=100,
    host_time_s=0.1,
    input_bytes=10**6,
)


def lines_of(view):
    console = Console(width=80, file=io.StringIO())
    Printer(console=console).show([], view)
    return console.file.getvalue().splitlines()


def test_what_takes_the_time_is_listed_by_phase_and_kind_and_adds_up():
    estimate = estimate_step(WORK, GPUS["a6000"], 16)
    title, _, _, first, second, *_ = lines = lines_of(time_view("LoRA", estimate))
    assert title.startswith("LoRA: ") and "ms a step, predicted; bound by arithmetic" in title
    assert first.split()[:4] == ["backward", "product", "30", f"{30 * 2 * 4096**3 / 1e9:,.1f}"]
    assert second.split()[:3] == ["forward", "product", "20"]
    shown_ms = sum(float(line.split()[-1]) for line in lines[3:9])
    (rest,) = [line for line in lines if line.strip().startswith("all others together")]
    assert shown_ms + float(rest.split()[-2]) == pytest.approx(1000 * estimate.device_busy_s, abs=0.04)


def test_at_80_columns_no_number_of_a_training_is_cut():
    estimate = estimate_step(WORK, GPUS["a6000"], 16)
    training = TrainingEstimate(train_time_s=6e7, preloading_time_s=6e6, energy_j=3.6e9)
    lines = lines_of(training_view([("vpt", estimate, training)], GPUS["rtx-pro-6000"], 20, 1_000_000))
    assert max(map(len, lines)) <= 80 and "predicted" in " ".join(lines)
    assert {"1,000,000", "100,000", "1,100,000", "1,000"} <= set(" ".join(lines).split())


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (1.2345, "1.23"), (12.345, "12.3"), (123.45, "123"), (1234.5, "1,234")]
)
def test_three_digits_count(value, text):
    assert three_digits(value) == text
