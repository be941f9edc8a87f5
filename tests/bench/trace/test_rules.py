"""The memory that CUDA operators take besides their results."""

from itertools import product

import on_emulated_pytorch as on_device
import pytest
import torch

from bench.cards.gpus import GPUS
from bench.cells.config import CellConfig
from bench.emulate.pool import Job
from bench.predict.traced import HELD_TO_TORCH, INSTALLED_TORCH, trace_cell
from bench.trace.attention_kernels import run_attention_kernel
from bench.trace.rules import RULES, Target
from bench.trace.trace import StorageTracer
from bench.units import MIB

aten = torch.ops.aten
A6000, H100 = GPUS["a6000"], GPUS["h100"]
NOW = (2, 15)
of_this_release = pytest.mark.skipif(INSTALLED_TORCH < HELD_TO_TORCH, reason="an older PyTorch takes other memory")


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
    partials, semaphores = scratch("reduction_scratch", aten.sum.dim_IntList, (meta(64 * 197, 3072), [0]), H100)
    assert partials.num_bytes == 138_412_032
    assert semaphores.num_bytes == 4 * 24


def test_a_reduction_that_one_block_finishes_takes_nothing():
    assert not scratch("reduction_scratch", aten.sum.dim_IntList, (meta(16, 3072), [0]))
    assert not scratch("reduction_scratch", aten.sum.dim_IntList, (meta(12608, 3072), [1]))


def test_attention_backward_workspaces():
    args = (meta(2, 3, 1025, 64, dtype=torch.float16), meta(2, 3, 1025, 64, dtype=torch.float16))
    sums, tiles = scratch(
        "efficient_attention_backward", aten._scaled_dot_product_efficient_attention_backward.default, args
    )
    assert (sums.num_bytes, tiles.num_bytes) == (2 * 3 * 1025 * 4, 2 * 3 * 17 * 1 * 16_400)
    sums, query = scratch("flash_attention_backward", aten._scaled_dot_product_flash_attention_backward.default, args)
    assert (sums.num_bytes, query.num_bytes) == (2 * 3 * 1152 * 4, 2 * 1152 * 3 * 64 * 4)


def test_efficient_attention_in_fp32_makes_the_products_of_result_and_gradient_first():
    args = (meta(2, 3, 1025, 64), meta(2, 3, 1025, 64))
    made = scratch("efficient_attention_backward", aten._scaled_dot_product_efficient_attention_backward.default, args)
    assert [one.stage for one in made] == [1, 1, 2, 2]
    assert made[0].num_bytes == args[1].nbytes


def test_the_gradient_of_softmax_makes_one_more_matrix():
    scores = meta(2, 3, 50, 50)
    (product,) = scratch("softmax_backward", aten._softmax_backward_data.default, (scores, scores, -1, scores.dtype))
    assert product.num_bytes == scores.nbytes


ATTENTION = [
    *product(("flash",), (torch.bfloat16,), product((1, 3, 16), (3, 6), (50, 197, 1025), (8, 64, 80, 128))),
    *product(("efficient",), (torch.float16, torch.float32), product((2,), (3,), (50, 197, 1025), (8, 64))),
]


@of_this_release
@pytest.mark.parametrize("gpu", ["a6000", "h100", "rtx5090"])
def test_attention_takes_what_it_takes_on_the_device(emulated_pool, gpu):
    (taken,) = emulated_pool.map(on_device.attention_memory, [Job(gpu=GPUS[gpu], arguments=(ATTENTION,))])
    for case, sizes in zip(ATTENTION, taken, strict=True):
        assert sorted(traced_sizes(*case, GPUS[gpu])) == sorted(sizes), case


@of_this_release
def test_cudnn_s_attention_takes_what_it_takes_on_the_device_but_for_256_bytes(emulated_pool):
    cases = [*product(("cudnn",), (torch.bfloat16,), product((2, 16), (3, 6), (197, 1025), (8, 64)))]
    (taken,) = emulated_pool.map(on_device.attention_memory, [Job(gpu=H100, arguments=(cases,))])
    for case, sizes in zip(cases, taken, strict=True):
        sizes.remove(256)
        sizes[-1] -= 256
        assert sorted(traced_sizes(*case, H100)) == sorted(sizes), case


def traced_sizes(kernel, dtype, shape, gpu):
    """What on_emulated_pytorch.attention_memory gives, of the trace."""
    batch, heads, tokens, head_dim = shape
    tracer = StorageTracer(Target(gpu, NOW), RULES.values())
    query, key, value = (
        meta(batch, tokens, heads, head_dim, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)
    )
    with tracer:
        out = run_attention_kernel(kernel, query, key, value, None, 0.0, False, None)
        torch.autograd.grad(out, (query, key, value), torch.empty_like(query))
    made = [event.allocation for event in tracer.stop().events if not event.is_free and event.allocation.num_bytes]
    return [allocation.num_bytes for allocation in made if allocation.op != "empty_like"]


CELLS = {
    "cublas_workspace": {},
    "convolution_backward": {},
    "convolution_layout": {"precision": "bf16"},
    "cudnn_attention_backward": {"attention": "sdpa", "precision": "bf16", "gpu": "h100"},
    "efficient_attention_backward": {"attention": "efficient"},
    "flash_attention_backward": {"attention": "flash", "precision": "bf16"},
    "flash_attention": {"attention": "flash", "precision": "bf16", "batch_size": 1, "res": 512},
    "foreach_norm": {},
    "layer_norm_copies": {"method": "fptplus"},
    "log_sum_exp": {"method": "fptplus_live", "precision": "bf16", "gpu": "t4"},
    "reduction_scratch": {"method": "bitfit", "checkpointing": "block"},
    "safe_softmax": {"attention": "sdpa", "precision": "bf16", "gpu": "t4"},
    "softmax_backward": {},
    "unrolled_convolution": {"precision": "bf16", "gpu": "t4"},
}
"""A cell that each rule matters for."""


def total_requested(cell, rules, **options):
    return sum(e.allocation.num_bytes for e in trace_cell(cell, rules=rules, **options).events if not e.is_free)


def test_every_rule_has_a_cell_here_or_is_of_an_older_pytorch():
    assert RULES.keys() - CELLS.keys() == {"cublaslt_workspace"}


def test_before_pytorch_2_12_cublaslt_had_a_workspace_of_its_own_and_blackwell_a_small_one():
    (one,) = scratch("cublaslt_workspace", aten.addmm.default, (), torch_version=(2, 11))
    assert (one.num_bytes, one.kept_as) == (MIB, "cublaslt")
    assert not scratch("cublaslt_workspace", aten.addmm.default, (), torch_version=(2, 12))
    (one,) = scratch("cublas_workspace", aten.mm.default, (), GPUS["b200"], torch_version=(2, 11))
    assert one.num_bytes == 8_519_680


@pytest.mark.parametrize("rule", CELLS)
def test_each_rule_can_be_switched_off(rule):
    cell = CellConfig(**({"method": "full", "model": "vit_s", "res": 224} | CELLS[rule]))
    without = [other for name, other in RULES.items() if name != rule]
    assert total_requested(cell, without) < total_requested(cell, RULES.values())


def test_autograd_s_thread_has_a_cublas_workspace_of_its_own():
    cell = CellConfig(method="lora", model="test_vit", res=64)
    kept = [
        event.allocation.phase
        for event in trace_cell(cell, torch_version=(2, 14)).events
        if event.allocation.op == "cublas_workspace"
    ]
    assert sorted(kept) == ["backward", "forward"]
