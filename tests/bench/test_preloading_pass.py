"""The preloading pass as a cost of its own: the very features that the method trains on, and nothing that learns."""

import pytest
import torch

from bench.config import CellConfig
from bench.predict.predictor import predict, trace_preloading
from bench.predict.replay import replay
from methods import PASSES, create_backbone, find_method


@pytest.mark.parametrize("name", PASSES)
def test_it_makes_the_features_that_the_method_reads(name):
    def build(method):
        torch.manual_seed(0)
        return find_method(method).build(create_backbone("test_vit", 64, 5), 64)

    passed, method = build(name), build(name.removesuffix("_preloading"))
    assert passed.is_frozen and not method.is_frozen
    images = passed.example_inputs(2)
    torch.testing.assert_close(passed.model(*images), method.preloader(*images))
    _, *features = method.example_inputs(2)
    assert [tensor.shape for tensor in passed.model(*images)] == [tensor.shape for tensor in features]


@pytest.mark.parametrize("name", PASSES)
def test_its_prediction_is_that_of_the_method_s_preloading(name):
    cell = CellConfig(method=name, model="vit_s", res=224, batch_size=1)
    method = CellConfig(method=name.removesuffix("_preloading"), model="vit_s", res=224, batch_size=1)
    prediction = predict(cell)
    assert prediction.peak.reserved_bytes == replay(trace_preloading(method)).reserved_bytes
    assert prediction.forward_macs == prediction.train_step_macs == predict(method).backbone_forward_macs
    assert prediction.learnable_params == 0
