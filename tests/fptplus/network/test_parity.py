"""FPT and FPT+ compared with tensors made by running the official code (tests/golden/README.md)."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import fptplus
from fptplus.network.features import Features
from fptplus.network.weights import official_to_side

GOLDEN = Path(__file__).parents[2] / "golden"
TAPPED = {"fptplus": (2, 3), "fpt": (0, 1, 2, 3)}
TOLERANCE = 1e-4
"""Largest allowed difference, relative to the largest entry of the expected tensor."""


@pytest.fixture(params=["fptplus", "fpt"])
def variant(request):
    return request.param


@pytest.fixture
def golden(variant):
    return fptplus.read_checkpoint(GOLDEN / f"{variant}_reference.safetensors")


def part(golden, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in golden.items() if name.startswith(prefix)}


def assert_close(actual, expected, what):
    error = (actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    assert error <= TOLERANCE, f"{what} differs by {error:.2e} of its largest entry"


@pytest.fixture
def backbone(golden, variant):
    vit = VisionTransformer(
        img_size=96,
        patch_size=16,
        embed_dim=48,
        depth=4,
        num_heads=3,
        num_classes=5,
        norm_layer=partial(nn.LayerNorm, eps=1e-12),
    )
    fptplus.load_hugging_face_vit(vit, part(golden, "frozen."))
    return fptplus.FrozenBackbone(vit, TAPPED[variant], token_ratio=0.2)


def as_set(keys, values):
    """Keys and values as one set of tokens a head: sorted by their first feature."""
    both = torch.cat([keys, values], dim=-1)
    order = both[..., :1].argsort(dim=-2).expand_as(both)
    return both.gather(-2, order)


def test_the_frozen_backbone_keeps_the_tokens_that_the_official_code_keeps(golden, backbone):
    keys, values, *_ = backbone(golden["in.image_high"])
    expected = as_set(golden["out.key_states"], golden["out.value_states"])
    assert keys.shape == golden["out.key_states"].shape
    assert_close(as_set(keys, values), expected, "the set of kept keys and values")


@pytest.mark.parametrize(("layer_kind", "fused_attention"), [("lean", True), ("plain", True), ("plain", False)])
def test_logits_loss_and_every_gradient_equal_the_official_code(golden, variant, layer_kind, fused_attention):
    model = fptplus.load_official_checkpoint(
        GOLDEN / f"{variant}_reference.safetensors", layer_kind=layer_kind, fused_attention=fused_attention
    ).eval()
    logits = model(golden["in.image_low"], Features(golden["out.key_states"], golden["out.value_states"]))
    loss = F.cross_entropy(logits, golden["in.target"])
    loss.backward()

    assert_close(logits, golden["out.logits"], "logits")
    assert_close(loss, golden["out.loss"].squeeze(), "loss")
    expected = official_to_side(part(golden, "grad."))
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name], f"the gradient of {name}")


def test_the_live_model_gives_the_logits_of_the_preloaded_one(golden, variant, backbone):
    trained = fptplus.load_official_checkpoint(GOLDEN / f"{variant}_reference.safetensors").eval()
    live = fptplus.LiveFineGrainedPromptTuning(backbone, trained)
    images = golden["in.image_high"]
    side = F.interpolate(images, size=(trained.side.res,) * 2, mode="bilinear", antialias=True)
    assert torch.allclose(live(images), trained(side, backbone(images)))
