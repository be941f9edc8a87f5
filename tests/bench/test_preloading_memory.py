"""What preloading needs on a GPU, one image at a time: the bar of a tool that claims to save memory."""

import pytest

from bench.config import CellConfig
from bench.predict.devices import find_gpu
from bench.predict.predictor import trace_preloading
from bench.predict.replay import replay
from bench.units import GIB


def peak_of(method, res, precision):
    return replay(trace_preloading(CellConfig(method=method, model="vit_b", res=res, precision=precision)))


@pytest.mark.parametrize(("method", "precision"), [("fptplus", "fp32"), ("fptplus", "bf16"), ("fpt", "fp32")])
def test_at_2048_px_vit_b_reserves_less_than_one_and_a_half_gib(method, precision):
    peak = peak_of(method, 2048, precision)
    assert peak.allocated_bytes <= peak.reserved_bytes < 1.5 * GIB


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["fptplus", "fpt"])
def test_at_512_px_vit_b_fits_one_gib_with_the_cuda_context(method, precision):
    assert peak_of(method, 512, precision).reserved_bytes + find_gpu("a6000").context_bytes <= 1 * GIB


def test_the_peak_grows_with_the_tokens_and_not_with_their_square():
    """Beyond weights, sixteen times the patches take at most as many times the memory."""
    small, large = (peak_of("fptplus", res, "fp32") for res in (512, 2048))
    beyond = [peak.allocated_bytes - peak.by_kind["weights"] for peak in (small, large)]
    assert beyond[1] < 16 * beyond[0]
    assert 8 * beyond[1] < 16385**2 * 12 * 4, "a score matrix of one layer alone would be many times that"


def test_the_attention_asked_for_training_does_not_change_preloading():
    cells = [CellConfig(method="fptplus", model="vit_s", res=512, attention=kind) for kind in ("eager", "efficient")]
    assert len({replay(trace_preloading(cell)).reserved_bytes for cell in cells}) == 1
