import huggingface_hub
import pytest
import timm
import torch
import transformers
from huggingface_hub.errors import EntryNotFoundError

from fptplus import InvalidInput
from methods import create_backbone
from methods.backbone import PUBLISHED_WEIGHTS, _read_weights, published_params

RES = 224


def test_an_unknown_model_is_answered_with_names_near_it():
    with pytest.raises(InvalidInput, match=r"model must be one of vit_s, vit_b, vit_l .*got 'vit_bse'.*did you mean"):
        create_backbone("vit_bse", RES, 5)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("swin_tiny_patch4_window7_224", "SwinTransformer"),
        ("vit_base_r50_s16_224", "HybridEmbed"),
        ("vit_relpos_base_patch16_224", "VisionTransformerRelPos"),
        ("resnet18", "unexpected keyword argument 'img_size'"),
        ("vit_small_patch16_18x2_224", "its blocks are ParallelThingsBlock;"),
        ("deit_base_distilled_patch16_224", "VisionTransformerDistilled"),
    ],
)
def test_what_no_method_can_drive_is_refused_with_the_reason(model, reason):
    with pytest.raises(InvalidInput, match=rf"plain timm VisionTransformer, got '{model}'.*{reason}"):
        create_backbone(model, RES, 5)


@pytest.mark.parametrize(
    ("model", "res", "cure"), [("vit_b", 500, "496 or 512"), ("vit_base_patch14_dinov2", 512, "504 or 518")]
)
def test_a_resolution_the_patch_size_does_not_divide_is_answered_with_two_that_it_does(model, res, cure):
    with pytest.raises(InvalidInput, match=f"got {res}; try {cure}"):
        create_backbone(model, res, 5)


def test_position_embeddings_have_the_grid_of_the_resolution():
    with torch.device("meta"):
        assert create_backbone("vit_l", 640, 5).pos_embed.shape == (1, 40 * 40 + 1, 1024)


def test_published_params_are_those_of_the_published_model_at_any_resolution():
    """ViT-B/16 with 384-px position embeddings and a 1000-way head has 86,859,496 parameters."""
    with torch.device("meta"):
        assert {published_params(create_backbone("vit_b", res, 5)) for res in (128, 384, 512)} == {86_859_496}


def test_drop_path_skips_blocks_in_training_more_often_the_higher_they_are_and_never_in_evaluation():
    images = torch.randn(4, 3, 64, 64)
    logits = {}
    for rate in (0.0, 0.5):
        torch.manual_seed(0)
        vit = create_backbone("test_vit", 64, 3, drop_path=rate)
        assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks] == pytest.approx(
            [rate * index / (len(vit.blocks) - 1) for index in range(len(vit.blocks))]
        )
        logits[rate] = vit(images), vit.eval()(images)
    assert torch.equal(logits[0.0][1], logits[0.5][1])
    assert not torch.allclose(logits[0.0][0], logits[0.5][0])


def test_a_pretrained_name_without_a_network_is_one_sentence(monkeypatch):
    def no_network(*args, **kwargs):
        raise ConnectionError("Network is unreachable\nand so on")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(
        InvalidInput, match=r"vit_small_patch16_384 cannot be \(Network is unreachable\); without a"
    ) as e:
        _read_weights("vit_small_patch16_384")
    assert "\n" not in str(e.value)


def test_weights_that_are_neither_a_file_nor_a_pretrained_name_are_refused():
    with pytest.raises(InvalidInput, match="at Hugging Face .organisation/name., got 'none.pt'"):
        create_backbone("test_vit", 64, 5, weights="none.pt")


def test_the_paper_s_weights_are_found_by_its_name_with_its_layer_norm_eps(monkeypatch):
    """google/vit-base-patch16-384 was no name of weights at all."""
    asked, create = [], timm.create_model

    def answer(name, pretrained=False, **options):
        if pretrained:
            asked.append(name)
            return create("test_vit", img_size=64, num_classes=3)
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", answer)
    for name, in_timm in PUBLISHED_WEIGHTS.items():
        vit = create_backbone("test_vit", 64, 3, weights=name)
        assert asked[-1] == in_timm and timm.models.is_model_pretrained(in_timm)
        assert {m.eps for m in vit.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-12}
    vit = create_backbone("test_vit", 64, 3, weights="test_vit.r160_in1k")
    assert {m.eps for m in vit.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Hugging Face with one repository, which holds a tiny ViT in the old format."""

    def download(repository, name):
        if repository != "google/vit-large-patch16-384":
            raise ConnectionError("no such repository\nand so on")
        if name == "model.safetensors":
            raise EntryNotFoundError("404")
        return str(tmp_path / name)

    sizes = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 192}
    tiny = transformers.ViTConfig(**sizes, image_size=64)
    with torch.random.fork_rng():
        model = transformers.ViTModel(tiny)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return model.eval()


def test_the_paper_s_weights_of_vit_l_come_from_hugging_face(hub, monkeypatch):
    vit = create_backbone("test_vit", 64, 3, weights="google/vit-large-patch16-384")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(vit.eval().forward_features(images), hub(images).last_hidden_state)
    with pytest.raises(InvalidInput, match=r"model at Hugging Face .* some/other cannot be \(no such repository\);"):
        _read_weights("some/other")
    with pytest.raises(InvalidInput, match="got 'weights/none.pth', which does not exist"):
        _read_weights("weights/none.pth")
