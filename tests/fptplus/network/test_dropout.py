"""Dropout's mask is drawn as it should be, and its effect is that of nn.Dropout."""

import pytest
import torch

from fptplus.network.dropout import Dropout


@pytest.mark.parametrize("p", [0.2, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_is_dropped_and_the_rest_scaled(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(100_000, dtype=dtype, requires_grad=True)
    out = Dropout(p)(x)
    out.sum().backward()
    scale = torch.tensor(1 / (1 - p)).to(dtype)
    assert out.dtype == dtype and set(out.unique().tolist()) == {0.0, scale.item()}
    assert abs((out == 0).double().mean() - p) < 5 * (p * (1 - p) / len(x)) ** 0.5
    assert torch.equal(x.grad, out)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_none_and_all(p):
    assert torch.equal(Dropout(p)(torch.ones(9)), torch.ones(9) * (1 - p))


def test_nothing_is_dropped_in_evaluation():
    x = torch.randn(9)
    assert Dropout(0.5).eval()(x) is x
