"""Memory that preloading needs on a GPU, one image at a time: the bar for a tool that claims to save memory."""

from functools import cache

import pytest

from bench.cells.config import CellConfig
from bench.predict.predictor import predict, why_traced
from bench.units import GIB

needs_emulation = pytest.mark.skipif(why_traced("auto") is not None, reason=str(why_traced("auto")))
both_engines = pytest.mark.parametrize("engine", [pytest.param("emulated", marks=needs_emulation), "traced"])


@cache
def predicted(method, res, precision, engine, **axes):
    cell = CellConfig(method=f"{method}_preloading", model="vit_b", res=res, precision=precision, batch_size=1, **axes)
    return predict(cell, engine)


@both_engines
@pytest.mark.parametrize(("method", "precision"), [("fptplus", "fp32"), ("fptplus", "bf16"), ("fpt", "fp32")])
def test_at_2048_px_vit_b_reserves_less_than_one_and_a_half_gib(method, precision, engine):
    peak = predicted(method, 2048, precision, engine).peak
    assert peak.allocated_bytes <= peak.reserved_bytes < 1.5 * GIB


@both_engines
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["fptplus", "fpt"])
def test_at_512_px_vit_b_fits_one_gib_with_the_cuda_context(method, precision, engine):
    assert predicted(method, 512, precision, engine).process_bytes <= 1 * GIB
    assert predicted(method, 512, precision, engine, vram_bytes=1 * GIB).fits == "yes"


@both_engines
def test_the_peak_grows_with_the_tokens_and_not_with_their_square(engine):
    """Beyond weights, sixteen times the patches take at most as many times the memory."""
    small, large = (predicted("fptplus", res, "fp32", engine).peak for res in (512, 2048))
    beyond = [peak.allocated_bytes - peak.by_kind["weights"] for peak in (small, large)]
    assert beyond[1] < 16 * beyond[0]
    assert 8 * beyond[1] < 16385**2 * 12 * 4, "a score matrix of one layer alone would be many times that"


@both_engines
def test_the_attention_asked_for_training_does_not_change_preloading(engine):
    kinds = ("eager", "efficient")
    assert len({predicted("fptplus", 512, "fp32", engine, attention=kind).peak.reserved_bytes for kind in kinds}) == 1
