import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fptplus import InvalidInput
from fptplus.store.layout import RowLayout, quantise

VIT_B_512 = {"layers": 6, "heads": 12, "tokens": 205, "head_dim": 64}
"""Of FPT+ (paper, Sec. IV-B1)."""


def features(layers=2, batch=3, heads=2, tokens=5, head_dim=7):
    torch.manual_seed(0)
    return torch.randn(2, layers, batch, heads, tokens, head_dim).unbind(0)


def layout(dtype, **sizes):
    return RowLayout(**({"layers": 2, "heads": 2, "tokens": 5, "head_dim": 7} | sizes), dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 0), ("bf16", 2**-8)])
def test_what_is_packed_comes_out_again(dtype, tolerance):
    keys, values = features()
    rows = layout(dtype).pack(keys, values)
    assert rows.shape == (3, layout(dtype).row_bytes) and rows.dtype == torch.uint8
    got_keys, got_values = layout(dtype).unpack(rows).keys_and_values()
    torch.testing.assert_close(got_keys, keys, rtol=tolerance, atol=0)
    torch.testing.assert_close(got_values, values, rtol=tolerance, atol=0)


def test_unpacking_copies_nothing():
    rows = layout("int8").pack(*features())
    raw = layout("int8").unpack(rows)
    for view in (raw.numbers, raw.scales):
        assert view.untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()


def test_int8_is_off_by_at_most_half_a_step_of_its_own_channel():
    keys, values = features(tokens=20)
    keys[..., 3] *= 1000  # one channel with a range of its own costs the others nothing
    got_keys, _ = layout("int8", tokens=20).unpack(layout("int8", tokens=20).pack(keys, values)).keys_and_values()
    steps = keys.abs().amax(dim=-2, keepdim=True) / 127
    assert ((got_keys - keys).abs() <= 0.51 * steps).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=20))
def test_quantised_numbers_are_the_nearest_multiples_of_the_rounded_scale(column):
    x = torch.tensor(column).unsqueeze(-1)
    numbers, scales = quantise(x)
    assert scales.dtype == torch.float16 and numbers.dtype == torch.int8
    step = scales.double()
    error = (numbers.double() * step - x.double()).abs()
    # rounding the scale down can leave the largest number a little beyond 127 steps
    beyond = (x.double().abs() - 127 * step).clamp_min(0)
    smallest_scale = 2.0**-24
    assert (error <= torch.maximum(step, torch.tensor(127 * smallest_scale)) / 2 * 1.001 + beyond).all()


def test_a_channel_of_zeros_stays_zero():
    numbers, scales = quantise(torch.zeros(4, 2))
    assert not numbers.any() and not scales.any()


def test_half_and_a_quarter_of_fp32_at_the_paper_s_sizes():
    fp32, bf16, int8 = (RowLayout(**VIT_B_512, dtype=dtype).row_bytes for dtype in ("fp32", "bf16", "int8"))
    assert fp32 == 2 * 6 * 12 * 205 * 64 * 4
    assert fp32 == 2 * bf16
    side_image_bytes = 3 * 144 * 144
    assert (fp32 + side_image_bytes) / (int8 + side_image_bytes) > 3.8


def test_an_unknown_dtype_is_answered_with_the_known_ones():
    with pytest.raises(InvalidInput, match="store_dtype must be one of fp32, bf16, int8, got 'int4'"):
        layout("int4")
