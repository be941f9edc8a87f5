"""The preloading pass as a cost of its own: it makes the features that the method trains on, and learns nothing."""

import pytest
import torch

from bench.cells.config import CellConfig
from bench.predict.predictor import predict, predict_all, why_traced
from bench.predict.traced import trace_preloading
from bench.trace.replay import replay
from fptplus.network.features import tensors_of
from methods import PASSES, create_backbone, find_method

needs_emulation = pytest.mark.skipif(why_traced("auto") is not None, reason=str(why_traced("auto")))


@pytest.mark.parametrize("name", PASSES)
def test_it_makes_the_features_that_the_method_reads(name):
    def build(method):
        torch.manual_seed(0)
        return find_method(method).build(create_backbone("test_vit", 64, 5), 64)

    passed, method = build(name), build(name.removesuffix("_preloading"))
    assert passed.is_frozen and not method.is_frozen
    images = passed.example_inputs(2)
    made = tensors_of(passed.model(*images))
    torch.testing.assert_close(made, tensors_of(method.preloader(*images)))
    _, features = method.example_inputs(2)
    assert [tensor.shape for tensor in made] == [tensor.shape for tensor in tensors_of(features)]


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("engine", [pytest.param("emulated", marks=needs_emulation), "traced"])
def test_its_prediction_is_that_of_the_method_s_preloading(name, engine):
    cell = CellConfig(method=name, model="vit_s", res=224, batch_size=1)
    method = CellConfig(method=name.removesuffix("_preloading"), model="vit_s", res=224, batch_size=1)
    prediction = predict(cell, engine)
    assert prediction.forward_macs == prediction.train_step_macs == predict(method, engine).backbone_forward_macs
    assert prediction.learnable_params == 0
    if engine == "traced":
        assert prediction.peak.reserved_bytes == replay(trace_preloading(method)).reserved_bytes


@needs_emulation
@pytest.mark.parametrize("name", PASSES)
def test_a_pass_has_weights_and_images_and_nothing_that_learns(name):
    small, large = predict_all(
        [CellConfig(method=name, model="vit_s", res=224, batch_size=size) for size in (1, 4)], "emulated"
    )
    assert small.peak.by_kind["gradients"] == small.peak.by_kind["optimizer"] == 0
    assert small.peak.by_kind["weights"] == large.peak.by_kind["weights"]
    image_bytes = 3 * 224 * 224 * 4
    assert large.peak.by_kind["inputs"] - small.peak.by_kind["inputs"] == pytest.approx(3 * image_bytes, abs=512)
    assert small.train_step_macs == large.train_step_macs / 4
