"""The CPU's attention over narrow heads against the formula in double precision, small scores and large."""

import pytest
import torch
import torch.nn.functional as F

from fptplus import side_attention as module
from fptplus.side_attention import side_attention

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2}


def output_and_gradients(attention, parts):
    parts = [part.clone().requires_grad_() for part in parts]
    out = attention(*parts)
    torch.manual_seed(1)
    out.backward(torch.randn(out.shape).to(out.dtype))
    return [out, *(part.grad for part in parts)]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("head_dim", [3, 8, 16])
@pytest.mark.parametrize(("queries", "keys"), [(9, 13), (1, 13), (1200, 1200)])
def test_output_and_gradients_are_those_of_the_formula(queries, keys, head_dim, dtype):
    torch.manual_seed(0)
    parts = [torch.randn(1, 2, count, head_dim).to(dtype) for count in (queries, keys, keys)]
    expected = output_and_gradients(F.scaled_dot_product_attention, [part.double() for part in parts])
    for got, right in zip(output_and_gradients(side_attention, parts), expected, strict=True):
        assert got.dtype == dtype
        assert (got.double() - right).abs().max() <= TOLERANCE[dtype] * right.abs().max()


@pytest.mark.parametrize("size", [30, 300])
def test_scores_too_large_to_exponentiate_are_no_trouble(size):
    torch.manual_seed(0)
    parts = [size * torch.randn(2, 2, 20, 8), torch.randn(2, 2, 20, 8), torch.randn(2, 2, 20, 8)]
    expected = output_and_gradients(F.scaled_dot_product_attention, [part.double() for part in parts])
    for got, right in zip(output_and_gradients(side_attention, parts), expected, strict=True):
        assert (got.double() - right).abs().max() <= 1e-4 * right.abs().max()


def test_taking_few_heads_at_a_time_changes_nothing(monkeypatch):
    parts = list(torch.randn(3, 2, 3, 10, 8))
    whole = output_and_gradients(side_attention, parts)
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 100)
    for one, other in zip(whole, output_and_gradients(side_attention, parts), strict=True):
        torch.testing.assert_close(one, other)
