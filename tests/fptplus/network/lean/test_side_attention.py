"""The side network's attention compared with the formula in double precision, by the CPU's kernel and by PyTorch's."""

import pytest
import torch

from fptplus.network.lean.side_attention import side_attention

pytestmark = pytest.mark.usefixtures("either_way")

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}
SHAPES = [(9, 13), (13, 13), (1, 13), (65, 81), (1, 1), (700, 1200)]
"""Tokens with queries, and all."""


def formula(queries_keys_values, kept):
    queries, keys, values = (part.transpose(1, 2) for part in queries_keys_values.unbind(2))
    scores = queries[:, :, :kept] @ keys.mT / keys.shape[-1] ** 0.5
    return (scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)


def output_and_gradient(attention, tokens, kept):
    tokens = tokens.clone().requires_grad_()
    out = attention(tokens, kept)
    torch.manual_seed(1)
    out.backward(torch.randn(out.shape).to(out.dtype))
    return out, tokens.grad


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("head_dim", [3, 8, 16, 20])
@pytest.mark.parametrize(("kept", "tokens"), SHAPES)
def test_output_and_gradient_are_those_of_the_formula(kept, tokens, head_dim, dtype):
    torch.manual_seed(0)
    given = torch.randn(2, tokens, 3, 2, head_dim).to(dtype)
    expected = output_and_gradient(formula, given.double(), kept)
    for got, right in zip(output_and_gradient(side_attention, given, kept), expected, strict=True):
        assert got.dtype == dtype
        assert (got.double() - right).abs().max() <= TOLERANCE[dtype] * right.abs().max()


@pytest.mark.parametrize("size", [30, 300])
def test_large_scores_are_no_trouble(size):
    torch.manual_seed(0)
    given = torch.randn(2, 20, 3, 2, 8)
    given[:, :, 0] *= size
    expected = output_and_gradient(formula, given.double(), 20)
    for got, right in zip(output_and_gradient(side_attention, given, 20), expected, strict=True):
        assert (got.double() - right).abs().max() <= 1e-4 * right.abs().max()


def test_a_gradient_that_is_the_same_number_everywhere_is_taken():
    given = torch.randn(2, 20, 3, 2, 8, requires_grad=True)
    side_attention(given, 5).sum().backward()
    got, given.grad = given.grad, None
    formula(given, 5).sum().backward()
    torch.testing.assert_close(got, given.grad, rtol=1e-4, atol=1e-5)


def test_not_a_number_stays_one():
    given = torch.randn(1, 20, 3, 2, 8)
    given[0, 7, 1, 1, 3] = torch.nan
    out = side_attention(given, 20).unflatten(-1, (2, 8))
    assert out[:, :, 1].isnan().all() and out[:, :, 0].isfinite().all()
