"""Predicted process memory against Tables I and III of the paper (RTX A6000, PyTorch 2.0, fp32, eager, AdamW).

This covers our own training step on the installed PyTorch; the paper's software has its own test
(test_paper_stack.py).
"""

import statistics
from pathlib import Path

import pandas as pd
import pytest

from bench.cells.config import CellConfig
from bench.paper.settings import on_vit_l
from bench.predict.predictor import predict_all, why_traced
from bench.units import MIB
from methods import METHODS

pytestmark = pytest.mark.skipif(why_traced("auto") is not None, reason=str(why_traced("auto")))

PAPER = Path(__file__).parents[3] / "bench" / "paper"


@pytest.fixture(scope="module")
def printed():
    """Printed MB, read as the MiB of the driver's tools, by (model, method, resolution); NaN is out of memory."""
    table1 = pd.read_csv(PAPER / "table1.csv").query("weights == 'supervised'")
    table3 = pd.read_csv(PAPER / "table3.csv")
    cells = {("vit_b", row.method, 512): row.mem_mb for row in table1.itertuples()}
    return cells | {("vit_l", row.method, row.res): row.mem_mb for row in table3.itertuples()}


@pytest.fixture(scope="module")
def predictions(printed):
    cells = [
        CellConfig(method=on_vit_l(method) if model == "vit_l" else method, model=model, res=res)
        for model, method, res in printed
    ]
    return dict(zip(printed, predict_all(cells, "emulated"), strict=True))


@pytest.fixture(scope="module")
def ratios(printed, predictions):
    """Predicted over printed, where the paper prints a number."""
    return {
        cell: predictions[cell].process_bytes / MIB / megabytes
        for cell, megabytes in printed.items()
        if not pd.isna(megabytes)
    }


def test_all_printed_cells_are_predicted(printed, ratios):
    assert (len(printed), len(ratios)) == (60, 46)
    assert {method for _, method, _ in ratios} == set(METHODS)


def test_the_median_deviation_is_at_most_9_percent(ratios):
    assert statistics.median(abs(ratio - 1) for ratio in ratios.values()) <= 0.09


def test_no_cell_is_further_off_than_the_known_worst(ratios):
    """ViT-L at 640 px of what trains no block: a quarter below the print. Our step copies no stored features."""
    *_, third, second, worst = sorted(ratios, key=lambda cell: abs(ratios[cell] - 1))
    assert {third, second, worst} == {("vit_l", method, 640) for method in ("linear", "fpt", "fptplus")}
    assert abs(ratios[worst] - 1) < 0.23


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_resolutions_is_the_printed_one(ratios, method):
    own = {res: ratio for (model, name, res), ratio in ratios.items() if model == "vit_l" and name == method}
    assert max(own.values()) / min(own.values()) < 1.3


@pytest.mark.parametrize(
    ("method", "res"), [("full", 512), ("full", 640), ("lora", 640), ("bitfit", 640), ("vpt", 640)]
)
def test_these_cells_run_out_of_48_gb_as_printed(printed, predictions, method, res):
    cell = "vit_l", method, res
    assert pd.isna(printed[cell]) and predictions[cell].fits == "no"


def test_every_cell_with_a_printed_number_fits(ratios, predictions):
    assert {predictions[cell].fits for cell in ratios} == {"yes"}
