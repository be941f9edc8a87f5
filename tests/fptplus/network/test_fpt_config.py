import pytest

from fptplus import FPT, FPTPLUS, FPTConfig, InvalidInput


def test_fptplus_taps_the_upper_half_and_fpt_every_layer():
    assert FPTPLUS.tapped_layers(12) == (6, 7, 8, 9, 10, 11)
    assert FPT.tapped_layers(12) == tuple(range(12))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("num_prompts", 0, "num_prompts must be at least 1, got 0"),
        ("token_ratio", 1.5, "token_ratio must be above 0 and at most 1, got 1.5"),
        ("side_res", 100, "side_res must be a multiple of the side network's patch size 16, got 100"),
    ],
)
def test_a_value_out_of_range_is_named(field, value, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        FPTConfig(**{"variant": "fptplus", "side_res": 128, "tapped_share": 0.5, field: value})


def test_a_reduction_factor_that_does_not_suit_the_lpm_is_refused():
    with pytest.raises(InvalidInput, match="reduction_factor must divide the LPM's width 768 .* got 7"):
        FPTConfig(variant="fptplus", side_res=128, tapped_share=0.5, reduction_factor=7).side_dim(768, 12)
