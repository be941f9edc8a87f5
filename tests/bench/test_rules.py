"""The memory that CUDA operators take beside their results."""

import pytest
import torch

from bench.config import CellConfig
from bench.predict.devices import GPUS
from bench.predict.predictor import trace_cell
from bench.predict.replay import replay
from bench.predict.rules import RULES, Target
from bench.units import MIB

aten = torch.ops.aten
A6000, H100 = GPUS["a6000"], GPUS["h100"]
NOW = (2, 15)


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, device="meta", dtype=dtype)


def scratch(rule, op, args, gpu=A6000, torch_version=NOW):
    return list(RULES[rule](op, args, None, Target(gpu, torch_version)))


@pytest.mark.parametrize(("gpu", "expected"), [(A6000, 8_519_680), (H100, 32 * MIB), (GPUS["b200"], 32 * MIB)])
def test_cublas_takes_more_from_hopper_on(gpu, expected):
    (one,) = scratch("cublas_workspace", aten.mm.default, (), gpu)
    assert one.num_bytes == expected


def test_cublas_keeps_its_workspace_before_pytorch_2_15_and_gives_it_back_since():
    assert scratch("cublas_workspace", aten.bmm.default, (), torch_version=(2, 14))[0].kept_as == "cublas"
    assert scratch("cublas_workspace", aten.bmm.default, (), torch_version=(2, 15))[0].kept_as is None
    assert not scratch("cublas_workspace", aten.add.Tensor, ())


def test_a_bias_gradient_s_reduction_takes_138_mb_on_132_multiprocessors():
    """64 x 197 tokens through a layer of 768 -> 3072, as observed with the real allocator."""
    (one,) = scratch("reduction_scratch", aten.sum.dim_IntList, (meta(64 * 197, 3072), [0]), H100)
    assert one.num_bytes == 138_412_032


def test_a_reduction_that_one_block_finishes_takes_nothing():
    assert not scratch("reduction_scratch", aten.sum.dim_IntList, (meta(16, 3072), [0]))
    assert not scratch("reduction_scratch", aten.sum.dim_IntList, (meta(12608, 3072), [1]))


def test_attention_backward_workspaces():
    args = (meta(2, 3, 1025, 64), meta(2, 3, 1025, 64))
    tiles, sums = scratch(
        "efficient_attention_backward", aten._scaled_dot_product_efficient_attention_backward.default, args
    )
    assert (tiles.num_bytes, sums.num_bytes) == (2 * 3 * 17 * 1 * 16_400, 2 * 3 * 1025 * 4)
    query, sums = scratch("flash_attention_backward", aten._scaled_dot_product_flash_attention_backward.default, args)
    assert (query.num_bytes, sums.num_bytes) == (2 * 1152 * 3 * 64 * 4, 2 * 3 * 1152 * 4)


CELLS = {
    "cublas_workspace": {},
    "cublaslt_workspace": {"method": "linear"},
    "efficient_attention_backward": {"attention": "efficient"},
    "flash_attention_backward": {"attention": "flash", "precision": "bf16"},
    "reduction_scratch": {"method": "bitfit", "checkpointing": "block"},
}
"""A cell that each rule matters for."""


def total_requested(cell, rules, **options):
    return sum(e.allocation.num_bytes for e in trace_cell(cell, rules=rules, **options).events if not e.is_free)


@pytest.mark.parametrize("rule", CELLS)
def test_each_rule_can_be_switched_off(rule):
    cell = CellConfig(**({"method": "full", "model": "vit_s", "res": 224} | CELLS[rule]))
    without = [other for name, other in RULES.items() if name != rule]
    assert total_requested(cell, without) < total_requested(cell, RULES.values())


def test_before_pytorch_2_1_adamw_needed_the_parameters_once_more():
    """On top of a peak in the optimizer: weights, gradients, two moments, denominators and their copy are 6 times."""
    cell = CellConfig(method="full", model="vit_s", res=32, batch_size=1)
    learnable_bytes = 4 * (trace := replay(trace_cell(cell))).by_kind["weights"] // 4
    old, new = (replay(trace_cell(cell, torch_version=version)).allocated_bytes for version in ((2, 0), (2, 1)))
    assert old - new == pytest.approx(learnable_bytes, rel=0.02)
    assert trace.allocated_bytes == pytest.approx(5 * learnable_bytes, rel=0.1)


def test_autograd_s_thread_has_a_cublas_workspace_of_its_own():
    cell = CellConfig(method="lora", model="test_vit", res=64)
    kept = [
        event.allocation.phase
        for event in trace_cell(cell, torch_version=(2, 14)).events
        if event.allocation.op == "cublas_workspace"
    ]
    assert sorted(kept) == ["backward", "forward"]
