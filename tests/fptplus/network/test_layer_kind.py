"""The layers that run are those asked for and no others; the numbers are the same."""

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block

from fptplus import FPT, FPTPLUS, FPTConfig, InvalidInput, build_fpt
from fptplus.network import fusion, side_network

SMALL = {"side_res": 32, "tapped_share": 1.0, "num_prompts": 4, "reduction_factor": 2}
SIZES = {"lpm_dim": 48, "lpm_heads": 3, "lpm_depth": 3, "num_classes": 3}
PLAIN_EXPLICIT = {"layer_kind": "plain", "fused_attention": False}


def made(variant, **kind):
    torch.manual_seed(0)
    return build_fpt(FPTConfig(variant=variant, **SMALL), **SIZES, **kind)


def loss_and_gradients(model):
    torch.manual_seed(1)
    torch.nn.init.normal_(model.fusion.prompts)  # they begin at almost nothing
    model.fusion.dropout.p = 0.0  # dropout of all layers at once draws other masks
    loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32), torch.randn(2, 3, 4, 3, 7, 16)), torch.arange(4) % 3)
    loss.backward()
    return {"loss": loss.detach(), **{name: parameter.grad for name, parameter in model.named_parameters()}}


@pytest.mark.parametrize("variant", ["fpt", "fptplus"])
@pytest.mark.parametrize("kind", [{"layer_kind": "lean"}, {"layer_kind": "plain"}], ids=["lean", "plain, fused"])
def test_every_kind_has_the_loss_and_gradients_of_plain_layers_with_explicit_attention(variant, kind):
    expected = loss_and_gradients(made(variant, **PLAIN_EXPLICIT))
    for name, tensor in loss_and_gradients(made(variant, **kind)).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("fused_attention", [True, False])
def test_plain_layers_call_nothing_that_is_lean(monkeypatch, fused_attention):
    for module, name in ((side_network, "side_layer"), (fusion, "stored_attention")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("a lean function was called"))
    loss_and_gradients(made("fptplus", layer_kind="plain", fused_attention=fused_attention))


def test_lean_layers_call_no_plain_block_and_no_plain_attention(monkeypatch):
    monkeypatch.setattr(Block, "forward", lambda *_: pytest.fail("a plain block was called"))
    monkeypatch.setattr(fusion, "plain_attention", lambda *_: pytest.fail("plain attention was called"))
    loss_and_gradients(made("fptplus", layer_kind="lean"))


def test_whether_plain_attention_is_fused_is_a_question_of_its_own(monkeypatch):
    called = []
    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *of, **how: called.append(1) or attention(*of, **how))
    loss_and_gradients(made("fptplus", **PLAIN_EXPLICIT))
    assert not called
    loss_and_gradients(made("fptplus", layer_kind="plain"))
    assert len(called) == 2 * SIZES["lpm_depth"], "each layer's own attention and its prompts'"


@pytest.mark.parametrize("config", [FPT, FPTPLUS])
def test_explicit_attention_needs_plain_layers(config):
    with pytest.raises(InvalidInput, match="layer_kind must be plain where attention is explicit"):
        build_fpt(config, lpm_dim=768, lpm_heads=12, lpm_depth=12, num_classes=2, fused_attention=False)


def test_an_unknown_kind_is_answered_with_the_known_ones():
    with pytest.raises(InvalidInput, match="layer_kind must be one of plain, lean, got 'thin'"):
        made("fpt", layer_kind="thin")
