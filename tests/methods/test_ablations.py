"""FPT+ with one value changed, and with its components added one by one."""

import pytest
import torch

from fptplus import FPTPLUS
from methods import ABLATIONS, METHODS, create_backbone, find_method
from methods.ablations import VALUES, ablation_name

MODEL, RES, CLASSES = "test_vit", 64, 5


def build(name):
    with torch.device("meta"):
        return find_method(name).build(create_backbone(MODEL, RES, CLASSES), RES)


@pytest.mark.parametrize("short", VALUES)
def test_each_variant_changes_its_one_field(short):
    field, values = VALUES[short]
    for value in values:
        config = find_method(ablation_name(METHODS["fptplus"], short, value)).config
        wanted = value / 12 if short == "layers" else value
        assert vars(config) == vars(FPTPLUS) | {field: wanted}


def test_fptplus_s_own_values_are_fptplus_itself():
    own = {"side": 128, "prompts": 16, "k": 8, "layers": 6, "ratio": 0.2}
    assert {ablation_name(METHODS["fptplus"], *item) for item in own.items()} == {"fptplus"}
    assert len(ABLATIONS) == sum(len(values) for _, values in VALUES.values()) - len(own)


def test_side_layers_are_counted_under_a_vit_b():
    for layers in VALUES["layers"][1]:
        config = find_method(ablation_name(METHODS["fptplus"], "layers", layers)).config
        assert len(config.tapped_layers(12)) == layers


def test_the_side_network_alone_knows_no_lpm():
    tuning = build("side_only")
    assert tuning.total_params == sum(p.numel() for p in tuning.model.parameters())
    assert tuning.preloader is None


def test_the_mlp_variant_doubles_the_side_network_s_tokens():
    tuning = build("side_mlp")
    seen = []
    for block in tuning.model.side.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    with torch.device("meta"):
        tuning.model(*tuning.example_inputs(2))
    tokens = (RES // 16) ** 2 + 1
    assert seen == [2 * tokens] * len(tuning.model.side.blocks)


def test_without_asymmetric_input_the_side_network_sees_the_lpm_s_resolution():
    assert build("side_fusion").model.trained.side.res == RES
    assert build("side_fusion_asymmetric").model.trained.side.res == 128
