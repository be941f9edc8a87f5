"""A layer of the side network compared with timm's block, by the CPU's kernels and by PyTorch's operators."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import nn

from fptplus.network.lean.side_layer import _gelu, _gelu_again, _layer_norm, _layer_norm_backward, side_layer

pytestmark = pytest.mark.usefixtures("either_way")

HEADS = 3
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2}


def make_block(dim):
    torch.manual_seed(0)
    block = Block(dim, HEADS, qkv_bias=True)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return block


def output_and_gradients(layer, block, *given):
    given = [part.clone().requires_grad_() for part in given]
    block.zero_grad()
    out = layer(*given)
    torch.manual_seed(1)
    out.backward(torch.randn(out.shape).to(out.dtype))
    return {
        "out": out,
        "tokens": given[0].grad,
        "prompts": given[1].grad,
        **{name: parameter.grad for name, parameter in block.named_parameters()},
    }


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("dim", [12, 48])
@pytest.mark.parametrize("kept", [7, 1])
def test_output_and_gradients_are_those_of_the_plain_block(kept, dim, precision):
    block, plain = make_block(dim), make_block(dim).double()
    tokens, prompts = torch.randn(2, 7, dim), torch.randn(2, 4, dim)

    def ours(tokens, prompts):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            return side_layer(block, tokens, prompts, kept)

    def theirs(tokens, prompts):
        return plain(torch.cat([tokens, prompts], dim=1))[:, :kept]

    got = output_and_gradients(ours, block, tokens, prompts)
    expected = output_and_gradients(theirs, plain, tokens.double(), prompts.double())
    assert got.keys() == expected.keys()
    for name, right in expected.items():
        assert got[name].dtype == torch.float32, name
        assert (got[name].double() - right).abs().max() <= TOLERANCE[precision] * right.abs().max(), name


def test_prompts_in_bf16_have_gradients_in_bf16():
    """As fusion in bf16 gives them."""
    prompts = torch.randn(2, 4, 12).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = side_layer(make_block(12), torch.randn(2, 7, 12), prompts, 7)
    out.sum().backward()
    assert out.dtype == torch.float32 and prompts.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("dim", [5, 16, 100])
def test_layer_norm_is_pytorchs(dim, dtype):
    torch.manual_seed(0)
    norm = nn.LayerNorm(dim, eps=1e-3).double()
    x, beside = 3 + 2 * torch.randn(2, 6, dim), torch.randn(2, 4, dim)
    weight, bias = (torch.randn(dim) for _ in range(2))
    grad = torch.randn(2, 6, dim).to(dtype)
    norm.load_state_dict({"weight": weight, "bias": bias})
    exact = x.double().requires_grad_()
    expected = norm(exact)
    (expected * grad.double()).sum().add((exact[:, :4] * beside).sum()).backward()

    out, *stats = _layer_norm(x, weight, bias, 1e-3, dtype)
    assert out.dtype == dtype
    assert (out.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
    given = (exact.grad, norm.weight.grad, norm.bias.grad)
    for got, right in zip(_layer_norm_backward(grad, x, weight, bias, stats, beside), given, strict=True):
        assert (got.double() - right).abs().max() <= 1e-5 * right.abs().max()


def test_gelu_is_pytorchs_far_from_zero_too():
    x = torch.cat([torch.linspace(-40, 40, 40_001), torch.tensor([-1e30, 1e30])]).view(1, -1, 1)
    exact = x.double().requires_grad_()
    expected = F.gelu(exact)
    expected.sum().backward()
    again, slope = _gelu_again(x, torch.ones_like(x))
    assert torch.equal(_gelu(x), again)
    assert ((again - expected).abs() <= 1e-6 * x.abs().clamp(min=1)).all()
    assert (slope - exact.grad).abs().max() <= 2e-6


def test_not_a_number_stays_one():
    tokens = torch.randn(2, 7, 12)
    tokens[0, 0, 0] = torch.nan
    out = side_layer(make_block(12), tokens, torch.randn(2, 4, 12), 7)
    assert out[0].isnan().all() and out[1].isfinite().all()
