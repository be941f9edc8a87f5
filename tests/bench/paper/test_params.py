"""The parameter columns of the paper, from the methods as they are built (bench/paper/*.csv, 5 classes, 512 px)."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from methods import METHODS, create_backbone

PAPER = Path(__file__).parents[3] / "bench" / "paper"
FPTPLUS = METHODS["fptplus"]


def params_pct(method, model="vit_b"):
    with torch.device("meta"):
        tuning = method.build(create_backbone(model, 512, 5), 512)
    return 100 * sum(p.numel() for p in tuning.model.parameters() if p.requires_grad) / tuning.total_params


def table(number):
    return pd.read_csv(PAPER / f"table{number}.csv")


NOT_REPRODUCED = {"linear", "attention", "adalora"}


@pytest.mark.parametrize("method", [name for name in METHODS if name not in NOT_REPRODUCED])
def test_table_1_is_reproduced_to_the_printed_digits(method):
    rows = table(1).query("method == @method")
    assert set(rows.params_pct) == {round(params_pct(METHODS[method]), 2)}


def test_table_1_s_attention_tuning_is_not_reproduced():
    """Printed 33.8. The attention layers and a head are 32.80 %; 33.8 needs the embeddings to move as well."""
    assert set(table(1).query("method == 'attention'").params_pct) == {33.8}
    assert params_pct(METHODS["attention"]) == pytest.approx(32.80, abs=0.005)

    attention, head, published = 12 * 4 * (768 * 768 + 768), 5 * 769, 86_859_496
    embeddings = 577 * 768 + 768 + 3 * 16 * 16 * 768 + 768  # positions at 384 px, class token, patch embedding
    assert 100 * (attention + head + embeddings) / (published + head) == pytest.approx(33.83, abs=0.005)


def test_table_1_s_linear_probing_is_not_reproduced():
    """Printed 0.01; a 5-way head is 0.004 %, and it takes 6 classes to be printed as 0.01."""
    assert params_pct(METHODS["linear"]) == pytest.approx(0.0044, abs=5e-5)


def test_table_1_s_adalora_is_within_a_hundredth():
    assert 0.51 <= round(params_pct(METHODS["adalora"]), 2) <= 0.52


@pytest.mark.parametrize("row", list(table(5).itertuples()), ids=lambda row: f"{row.num_prompts} prompts")
def test_table_5_is_reproduced_to_the_printed_digits(row):
    method = replace(FPTPLUS, config=replace(FPTPLUS.config, num_prompts=row.num_prompts))
    assert f"{params_pct(method):.2f}" == f"{row.params_pct:.2f}"


@pytest.mark.parametrize("row", list(table(6).itertuples()), ids=lambda row: f"k={row.reduction_factor}")
def test_table_6_is_reproduced_to_the_printed_digits(row):
    method = replace(FPTPLUS, config=replace(FPTPLUS.config, reduction_factor=row.reduction_factor))
    assert f"{params_pct(method):.2f}" == f"{row.params_pct:.2f}"
