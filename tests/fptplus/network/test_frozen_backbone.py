"""The frozen pass compared with timm's own blocks with explicit attention."""

import copy
import inspect

import pytest
import torch
from timm.layers import Attention
from torch import nn

import fptplus.network.frozen_backbone
from fptplus import FrozenBackbone
from fptplus.network.frozen_backbone import split_qkv
from methods import create_backbone

TAPPED = (1, 3, 4)


@pytest.fixture
def vit():
    torch.manual_seed(0)
    vit = create_backbone("test_vit", 96, 3, attention="eager").eval()
    for block in vit.blocks:
        block.attn.qkv.weight.data *= 10  # attention with a preference, as trained models have
    return vit


def eager_features(vit, images, token_ratio):
    """Keys and values that the mean of whole attention matrices selects, from timm's forward pass as it is."""
    projections = {}
    for index in TAPPED:
        attention = vit.blocks[index].attn
        attention.qkv.register_forward_hook(lambda _, inputs, qkv, index=index: projections.update({index: qkv}))
    with torch.no_grad():
        vit(images)
    kept = []
    for index in TAPPED:
        queries, keys, values = split_qkv(vit.blocks[index].attn, projections[index])
        importance = (queries @ keys.transpose(-2, -1) / keys.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=2)
        order = (
            importance.topk(int(keys.shape[2] * token_ratio)).indices.unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
        )
        kept.append((keys.gather(2, order), values.gather(2, order)))
    return (torch.stack(part) for part in zip(*kept, strict=True))


@pytest.mark.parametrize("tokens_per_mlp_pass", [2048, 5])
def test_features_are_those_of_explicit_attention_also_with_mlps_in_parts(vit, monkeypatch, tokens_per_mlp_pass):
    monkeypatch.setattr(fptplus.network.frozen_backbone, "TOKENS_PER_MLP_PASS", tokens_per_mlp_pass)
    images = torch.randn(2, 3, 96, 96)
    expected = eager_features(copy.deepcopy(vit), images, 0.3)
    before = images.clone()
    keys, values, *_ = FrozenBackbone(vit, TAPPED, 0.3)(images)
    for got, wanted in zip((keys, values), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(images, before)


def test_the_frozen_pass_is_fused_whatever_the_vit_was_made_with(vit):
    FrozenBackbone(vit, TAPPED, 0.3)
    assert all(block.attn.fused_attn for block in vit.blocks)


def test_half_precision_selects_by_scores_accumulated_in_fp32(vit):
    backbone, images = FrozenBackbone(vit, TAPPED, 0.3), torch.randn(1, 3, 96, 96)
    keys = backbone(images).keys
    with torch.autocast("cpu", torch.bfloat16):
        half_keys, half_values, *_ = backbone(images)
    assert half_keys.dtype == half_values.dtype == torch.bfloat16
    nearest = torch.cdist(half_keys.float(), keys).amin(dim=-1) / keys.norm(dim=-1).amax()
    assert (nearest < 0.05).float().mean() > 0.9


def test_the_number_of_kept_tokens_is_known_without_a_pass(vit):
    backbone = FrozenBackbone(vit, TAPPED, 0.3)
    assert backbone(torch.randn(1, 3, 96, 96))[0].shape[3] == backbone.kept_tokens == int(37 * 0.3)


@pytest.mark.parametrize("option", ["qk_norm", "scale_norm", "gated"])
def test_every_option_of_timms_attention_layer_is_followed(vit, option):
    torch.manual_seed(0)
    if option not in inspect.signature(Attention).parameters:
        pytest.skip(f"this timm has no {option}")
    for block in vit.blocks:
        layer = Attention(vit.embed_dim, block.attn.num_heads, qkv_bias=True, norm_layer=nn.LayerNorm, **{option: True})
        for parameter in layer.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        layer.fused_attn = False
        block.attn = layer
    images = torch.randn(2, 3, 96, 96)
    expected = eager_features(copy.deepcopy(vit), images, 0.3)
    keys, values, *_ = FrozenBackbone(vit.eval(), TAPPED, 0.3)(images)
    for got, wanted in zip((keys, values), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)
