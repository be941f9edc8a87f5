"""What the figures show, compared with the model itself."""

import numpy as np
import pytest
import torch
from PIL import Image

from fptplus import FPTConfig, FrozenBackbone, InvalidInput, build_fpt
from fptplus.network.frozen_backbone import split_qkv
from fptplus.token_figures import TokenView, attention_on_prompts, draw_attention_on_prompts, draw_tokens, view_tokens
from methods import create_backbone

CONFIG = FPTConfig(variant="fptplus", side_res=32, tapped_share=0.5, num_prompts=4, reduction_factor=1)


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    vit = create_backbone("test_vit", 64, 2)
    return FrozenBackbone(vit, CONFIG.tapped_layers(len(vit.blocks)), 0.3)


@pytest.fixture
def trained(backbone):
    vit = backbone.vit
    torch.manual_seed(1)
    model = build_fpt(
        CONFIG, lpm_dim=vit.embed_dim, lpm_heads=vit.blocks[0].attn.num_heads, lpm_depth=len(vit.blocks), num_classes=2
    ).eval()
    torch.nn.init.normal_(model.fusion.prompts)
    return model


def test_the_tokens_shown_are_those_whose_keys_the_fusion_reads(backbone, trained):
    image = torch.randn(1, 3, 64, 64)
    keys = backbone(image).keys
    layer, head = backbone.tapped_layers[-1], 1
    view = view_tokens(backbone, trained, image, layer=layer, head=head)
    seen = []
    qkv = backbone.vit.blocks[layer].attn.qkv
    hook = qkv.register_forward_hook(lambda _m, _i, out: seen.append(out))
    backbone(image)
    hook.remove()
    _, all_keys, _ = split_qkv(backbone.vit.blocks[layer].attn, seen[0])
    shown = all_keys[0, head, view.selected]
    read = keys[-1, 0, head]
    torch.testing.assert_close(shown.sort(dim=0).values, read.sort(dim=0).values)


def test_prompt_attention_is_the_softmax_that_fuses_the_values(backbone, trained):
    image = torch.randn(1, 3, 64, 64)
    keys, values, *_ = backbone(image)
    layer = backbone.tapped_layers[-1]
    queries = trained.fusion.queries()[-1]
    fused = torch.nn.functional.scaled_dot_product_attention(queries[None], keys[-1], values[-1])[0]
    for head in range(queries.shape[0]):
        view = view_tokens(backbone, trained, image, layer=layer, head=head)
        assert view.attention.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)
        scores = queries[head] @ keys[-1, 0, head].T * queries.shape[-1] ** -0.5
        np.testing.assert_allclose(
            np.sort(view.attention, axis=1), scores.softmax(-1).detach().sort(dim=1).values, atol=1e-5
        )
        torch.testing.assert_close(scores.softmax(-1) @ values[-1, 0, head], fused[head])


def test_where_every_token_is_alike_the_prompts_get_their_share_of_the_sequence(trained, backbone):
    for block in trained.side.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight)
    features = backbone(torch.randn(3, 3, 64, 64))
    shares = attention_on_prompts(trained, torch.randn(3, 3, 32, 32), features)
    tokens = trained.side.pos_embed.shape[1]
    assert shares.tolist() == pytest.approx([4 / (tokens + 4)] * len(trained.side.blocks))


def test_heat_lies_on_the_patches_that_were_selected():
    view = TokenView(
        selected=np.array([5, 0, 2]),
        attention=np.array([[0.5, 0.25, 0.25], [0.7, 0.2, 0.1]]),
        grid=3,
        num_prefix_tokens=1,
    )
    expected = np.zeros((3, 3))
    expected[1, 1], expected[0, 1] = 0.6, 0.175
    np.testing.assert_allclose(view.heat(), expected)
    assert view.selected_patches() == [(1, 1), (0, 1)]


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [({"layer": 0, "head": 0}, "layer must be one that the side network reads"), ({"head": 99}, "head must be 0 to")],
)
def test_a_layer_or_head_that_is_not_there_is_refused(backbone, trained, choice, sentence):
    options = {"layer": backbone.tapped_layers[-1]} | choice
    with pytest.raises(InvalidInput, match=sentence):
        view_tokens(backbone, trained, torch.randn(1, 3, 64, 64), **options)


def test_figures_are_written_as_png_and_svg(backbone, trained, tmp_path):
    view = view_tokens(backbone, trained, torch.randn(1, 3, 64, 64), layer=backbone.tapped_layers[-1], head=0)
    draw_tokens(tmp_path / "a" / "tokens", Image.new("RGB", (64, 64), "red"), view, "red")
    draw_attention_on_prompts(tmp_path / "a" / "bars", [0.1, 0.2], 7, "bars")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"tokens.png", "tokens.svg", "bars.png", "bars.svg"}
    with Image.open(tmp_path / "a" / "tokens.png") as picture:
        assert picture.size[0] > 1000


def test_a_name_with_dollars_and_dots_is_drawn_and_kept_as_it_is(backbone, trained, tmp_path):
    view = view_tokens(backbone, trained, torch.randn(1, 3, 64, 64), layer=backbone.tapped_layers[-1], head=0)
    title = "a$_{$b.png: layer 2"
    draw_tokens(tmp_path / "tokens_v1.0_layer2", Image.new("RGB", (64, 64), "red"), view, title)
    draw_attention_on_prompts(tmp_path / "tokens_v1.5_layer2", [0.1, 0.2], 7, title)
    names = {f"tokens_v1.{version}_layer2.{kind}" for version in (0, 5) for kind in ("png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == names
