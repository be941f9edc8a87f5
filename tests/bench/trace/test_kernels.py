"""CUDA's behaviour on meta tensors, compared with PyTorch's own registrations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.cards.gpus import GPUS
from bench.cells.config import CellConfig
from bench.emulate.pool import Job
from bench.predict.emulated import predict_cell
from bench.predict.traced import trace_cell
from bench.trace.kernels import FP32, FP32_RESULT, LOWER_PRECISION, CudaKernels, MetaAutocast
from fptplus import InvalidInput

ATEN_NAMES = {
    "__matmul__": "matmul",
    "__rmatmul__": "matmul",
    "__pow__": "pow.Tensor_Scalar",
    "cross_entropy": "nll_loss",
}


def has_autocast_rule(function):
    """Whether PyTorch registers an autocast kernel for CUDA under any overload of the function's operator."""
    name = function.__name__.removeprefix("linalg_")
    name = ATEN_NAMES.get(name, name)
    names = (
        [name] if "." in name else [name, f"{name}.int", f"{name}.Tensor_Scalar", f"{name}.Scalar", f"linalg_{name}"]
    )
    for candidate in names:
        try:
            if torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{candidate}", "AutocastCUDA"):
                return True
        except RuntimeError:
            continue
    return False


@pytest.mark.parametrize(
    "function",
    sorted(LOWER_PRECISION | FP32 | FP32_RESULT, key=lambda f: (f.__name__, f.__qualname__)),
    ids=lambda f: f.__qualname__,
)
def test_every_operator_that_is_cast_has_an_autocast_rule_in_pytorch(function):
    assert has_autocast_rule(function)


@pytest.mark.parametrize("function", [F.gelu, torch.tanh, F.relu, torch.mean, torch.mul, torch.add])
def test_operators_that_are_not_cast_have_none(function):
    assert not has_autocast_rule(function)
    x = torch.empty(3, 4, device="meta", dtype=torch.bfloat16)
    arguments = (x, x) if function in (torch.mul, torch.add) else (x,)
    with MetaAutocast(torch.bfloat16):
        assert function(*arguments).dtype == torch.bfloat16


def test_matrix_products_run_in_half_precision_and_normalisations_in_fp32():
    linear, norm = nn.Linear(4, 4, device="meta"), nn.LayerNorm(4, device="meta")
    x = torch.empty(2, 4, device="meta")
    with MetaAutocast(torch.bfloat16):
        assert linear(x).dtype == (x @ x.T).dtype == torch.bfloat16
        assert norm(linear(x)).dtype == linear(x).softmax(-1).dtype == torch.float32
        assert F.cross_entropy(linear(x), torch.zeros(2, dtype=torch.long, device="meta")).dtype == torch.float32
        assert torch.cat([x, linear(x)]).dtype == torch.float32
        assert (x + linear(x)).dtype == torch.float32


def test_a_weight_with_a_gradient_is_cast_once_and_a_frozen_one_at_each_use():
    casts = []

    class Counting(MetaAutocast):
        def _lower(self, leaf):
            lowered = super()._lower(leaf)
            if isinstance(leaf, torch.Tensor) and leaf.shape == (4, 4):
                casts.append(lowered)
            return lowered

    for requires_grad, distinct in ((True, 1), (False, 2)):
        casts.clear()
        linear = nn.Linear(4, 4, device="meta").requires_grad_(requires_grad)
        with Counting(torch.bfloat16):
            linear(linear(torch.empty(2, 4, device="meta")))
        assert len({id(cast) for cast in casts}) == distinct


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [4, 8, 64])
@pytest.mark.parametrize("capability", [(8, 6), (9, 0)])
def test_fused_attention_keeps_no_score_matrix_and_gives_every_gradient(dtype, head_dim, capability):
    q, k, v = (torch.empty(2, 3, 50, head_dim, device="meta", dtype=dtype, requires_grad=True) for _ in range(3))
    saved = []
    with (
        CudaKernels("sdpa", capability),
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
    ):
        out = F.scaled_dot_product_attention(q, k, v)
    assert out.shape == q.shape
    out.sum().backward()
    assert q.grad.shape == k.grad.shape == v.grad.shape == q.shape
    assert all(t.shape[-2:] != (50, 50) for t in saved)


def test_dropout_keeps_one_byte_a_number():
    x = torch.empty(1000, device="meta", requires_grad=True)
    saved = []
    with (
        CudaKernels("eager"),
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t),
    ):
        F.dropout(x, 0.5)
    assert saved == [1000]


def test_softmax_of_fp16_is_made_in_fp32_without_a_copy_and_its_gradient_is_fp16():
    scores = torch.empty(2, 50, 50, device="meta", dtype=torch.float16, requires_grad=True)
    saved = []
    with (
        MetaAutocast(torch.float16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.dtype) or t, lambda t: t),
    ):
        probabilities = scores.softmax(dim=-1)
    assert probabilities.dtype == torch.float32
    assert saved == [torch.float32]
    probabilities.sum().backward()
    assert scores.grad.dtype == torch.float16


@pytest.mark.parametrize(("attention", "precision"), [("flash", "bf16"), ("flash", "fp16"), ("efficient", "bf16")])
def test_a_kernel_that_the_card_lacks_is_refused_by_both_engines_in_the_same_words(emulated_pool, attention, precision):
    cell = CellConfig(
        method="full", model="test_vit", res=64, batch_size=2, precision=precision, attention=attention, gpu="t4"
    )
    with pytest.raises(InvalidInput) as traced:
        trace_cell(cell)
    (refusal,) = emulated_pool.map(predict_cell, [Job(gpu=GPUS["t4"], arguments=(cell, GPUS["t4"]))])
    assert isinstance(refusal, InvalidInput)
    assert str(refusal) == str(traced.value)
    assert str(refusal) == f"attention {attention} has no kernel for {precision} on t4; use sdpa or eager."
