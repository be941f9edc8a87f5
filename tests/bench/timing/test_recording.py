"""What a step does, as it is recorded on the emulated card, against counts made otherwise."""

from dataclasses import replace

import pytest

from bench.cards.gpus import GPUS, endless
from bench.cells.config import CellConfig
from bench.emulate.pool import Job
from bench.predict.emulated import emulate_cell, work_of
from bench.sweep.harness import columns_of

CELL = CellConfig(method="full", model="vit_s", res=64, batch_size=8)
TOKENS, WIDTH, BLOCKS = 17, 384, 12


@pytest.fixture(scope="module")
def asked(emulated_pool):
    """What is recorded of three cells, and what is predicted for them."""
    cells = [CELL, replace(CELL, method="linear"), replace(CELL, precision="bf16", attention="sdpa")]
    card = endless(GPUS["a6000"])
    works = list(emulated_pool.map(work_of, [Job(gpu=card, arguments=(cell,)) for cell in cells]))
    told = list(emulated_pool.map(emulate_cell, [Job(gpu=card, arguments=(cell, card)) for cell in cells]))
    for answer in (*works, *told):
        if isinstance(answer, Exception):
            raise answer
    return [(work, prediction) for work, (prediction, _) in zip(works, told, strict=True)]


def test_launches_and_products_are_those_that_the_card_and_the_profiler_count(asked):
    for work, prediction in asked:
        assert work.kernel_launches == prediction.kernel_launches
        assert work.flops == 2 * prediction.train_step_macs


def test_a_block_of_a_vit_has_the_products_of_its_closed_form(asked):
    """Four matrices of the attention, two four times as wide, two products of the score matrix."""
    work, _ = asked[0]
    tokens = 8 * TOKENS
    block = work.totals(lambda one: one.module.partition("blocks.3.")[2] and one.phase)["forward"]
    assert block.flops == 2 * (12 * tokens * WIDTH**2 + 2 * tokens * TOKENS * WIDTH)
    backward = work.totals(lambda one: one.module.partition("blocks.3.")[2] and one.phase)["backward"]
    assert backward.flops == 2 * block.flops, "gradients of both factors"


def test_numbers_are_on_the_unit_of_their_type(asked):
    (fp32, _), _, (bf16, _) = asked
    assert set(fp32.flops_by_engine) == {"fp32", "tf32"}, "PyTorch lets convolutions, not products, use TF32"
    assert set(bf16.flops_by_engine) == {"bf16"}
    assert sum(fp32.flops_by_engine.values()) == fp32.flops


def test_linear_probing_sends_no_gradient_into_the_backbone(asked):
    _, (linear, _), _ = asked
    backward = [one for one in linear.operations if one.phase == "backward"]
    assert {one.module for one in backward if one.products} == {"head"}


def test_bytes_are_those_of_the_tensors(asked):
    work, _ = asked[0]
    gelu = next(one for one in work.operations if one.op == "gelu")
    size = 8 * TOKENS * 4 * WIDTH * 4
    assert (gelu.bytes_read, gelu.bytes_written, gelu.row) == (size, size, 0)
    norm = next(one for one in work.operations if one.op == "native_layer_norm")
    assert norm.row == WIDTH
    assert work.bytes_moved == sum(one.bytes_read + one.bytes_written for one in work.operations)
    assert work.arithmetic_intensity == pytest.approx(work.flops / work.bytes_moved)
    assert work.input_bytes == 8 * 3 * 64 * 64 * 4


def test_a_record_has_the_prediction_and_nothing_measured(asked):
    columns = columns_of(asked[0][1])
    estimate = asked[0][1].estimate
    assert columns["predicted_step_time_s"] == estimate.step_time_s > 0
    assert columns["predicted_energy_j_per_img"] == estimate.energy_j_per_img > 0
    assert columns["bytes_moved"] == estimate.bytes_moved
    assert columns["host_time_s"] > 0
    assert not [name for name in columns if name.startswith("measured_")]
    assert {"step_time_s", "throughput_img_s", "mean_power_w", "energy_j_per_img"}.isdisjoint(columns)
