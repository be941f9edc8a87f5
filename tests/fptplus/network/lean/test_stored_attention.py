"""Cross-attention over stored features compared with the formula in double precision, for every type of store.

It is computed by the CPU's kernel, and by PyTorch's operators as on a GPU: several images at once.
"""

import pytest
import torch

from fptplus.network.features import Features
from fptplus.network.lean.stored_attention import stored_attention
from fptplus.store.layout import RowLayout

pytestmark = pytest.mark.usefixtures("either_way", "few_images_at_once")

LAYERS, BATCH, HEADS, PROMPTS, TOKENS, HEAD_DIM = 2, 3, 2, 4, 7, 8
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""Of the largest entry; bf16 has 8 bits, and each product rounds its result."""


@pytest.fixture
def few_images_at_once(monkeypatch):
    """Where PyTorch's operators run."""
    monkeypatch.setattr("fptplus.network.lean.stored_attention._images_at_once", lambda device, batch_size: 2)


def features(dtype, tokens=TOKENS):
    """As a store gives them, and the numbers that they stand for in fp64."""
    torch.manual_seed(0)
    layout = RowLayout(layers=LAYERS, heads=HEADS, tokens=tokens, head_dim=HEAD_DIM, dtype=dtype)
    raw = layout.unpack(layout.pack(*torch.randn(2, LAYERS, BATCH, HEADS, tokens, HEAD_DIM)))
    return raw.by_layer(), [part.double() for part in raw.keys_and_values()]


def formula(queries, keys, values):
    scores = queries.unsqueeze(1) @ keys.mT / HEAD_DIM**0.5
    return (scores.softmax(dim=-1) @ values).transpose(2, 3).flatten(3)


def output_and_gradient(attention, queries, *given):
    queries = queries.clone().requires_grad_()
    out = attention(queries, *given)
    torch.manual_seed(2)
    out.backward(torch.randn(out.shape).to(out.dtype))
    return out, queries.grad


def assert_close(got, expected, tolerance):
    assert (got.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize(("prompts", "tokens"), [(PROMPTS, TOKENS), (16, 205), (40, 1500)])
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_output_and_gradient_are_those_of_the_formula(dtype, precision, prompts, tokens):
    stored, meant = features(dtype, tokens)
    queries = 3 * torch.randn(LAYERS, HEADS, prompts, HEAD_DIM).to(precision)
    expected = output_and_gradient(formula, queries.double(), *meant)
    for got, right in zip(output_and_gradient(stored_attention, queries, stored), expected, strict=True):
        assert got.dtype == precision
        assert_close(got, right, TOLERANCE[precision])


def test_autocast_decides_on_the_type_of_the_products():
    stored, _ = features("fp32")
    queries = torch.randn(LAYERS, HEADS, PROMPTS, HEAD_DIM, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = stored_attention(queries, stored)
    out.sum().backward()
    assert out.dtype == torch.bfloat16 and queries.grad.dtype == torch.float32


def test_features_laid_out_by_layer_are_taken_too():
    (keys, values, *_), meant = features("fp32")
    queries = torch.randn(LAYERS, HEADS, PROMPTS, HEAD_DIM)
    got = stored_attention(queries, Features(keys.contiguous(), values.contiguous()))
    assert_close(got, formula(queries.double(), *meant), 1e-5)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_a_choice_of_images_is_as_those_images(dtype):
    stored, _ = features(dtype)
    choice = stored._replace(rows=torch.tensor([2, 0, 2, 1]))
    queries = torch.randn(LAYERS, HEADS, PROMPTS, HEAD_DIM)
    expected = output_and_gradient(stored_attention, queries, choice.of_batch())
    for got, right in zip(output_and_gradient(stored_attention, queries, choice), expected, strict=True):
        assert torch.equal(got, right)
