"""The feed-forward part against the plain one, by the CPU's kernel and by PyTorch's operators."""

import pytest
import torch
import torch.nn.functional as F

from fptplus.feed_forward import feed_forward

pytestmark = pytest.mark.usefixtures("either_way")

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2}


def plain(x, weight1, bias1, weight2, bias2):
    return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)


def arguments(dtype=torch.float32):
    torch.manual_seed(0)
    shapes = [(2, 5, 6), (23, 6), (23,), (6, 23), (6,)]
    return [torch.randn(shape).to(dtype) for shape in shapes]


def output_and_gradients(function, given):
    given = [part.clone().requires_grad_() for part in given]
    out = function(*given)
    torch.manual_seed(1)
    out.backward(torch.randn(out.shape).to(out.dtype))
    return [out, *(part.grad for part in given)]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_output_and_gradients_are_those_of_the_plain_one(dtype):
    given = arguments(dtype)
    expected = output_and_gradients(plain, [part.double() for part in given])
    for got, right in zip(output_and_gradients(feed_forward, given), expected, strict=True):
        assert got.dtype == dtype and got.shape == right.shape
        assert (got.double() - right).abs().max() <= TOLERANCE[dtype] * right.abs().max()


def test_gelu_is_right_far_from_zero_too():
    x = torch.cat([torch.linspace(-40, 40, 40_001), torch.tensor([-1e30, 1e30])])[None, :, None]
    one, none = torch.ones(1, 1), torch.zeros(1)
    got, expected = feed_forward(x, one, none, one, none), F.gelu(x.double())
    assert ((got - expected).abs() <= 1e-6 * x.abs().clamp(min=1)).all()


def test_not_a_number_stays_one():
    given = arguments()
    given[0][0, 0, 0] = torch.nan
    out = feed_forward(*given)
    assert out[0, 0].isnan().all() and out[1].isfinite().all()


def test_autocast_decides_on_the_type():
    given = [part.requires_grad_() for part in arguments()]
    with torch.autocast("cpu", torch.bfloat16):
        out = feed_forward(*given)
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert all(part.grad.dtype == torch.float32 for part in given)
