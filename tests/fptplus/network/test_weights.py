from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import fptplus
from fptplus import InvalidInput
from fptplus.network.weights import hugging_face_to_timm, is_hugging_face
from methods import create_backbone

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return create_backbone("test_vit", 64, 5)


def test_a_timm_checkpoint_of_another_resolution_and_task_is_loaded_with_the_head_left_alone(vit, tmp_path):
    save_file(create_backbone("test_vit", 96, 7).state_dict(), tmp_path / "vit.safetensors")
    head = vit.head.weight.clone()
    fptplus.load_vit(vit, state := fptplus.read_checkpoint(tmp_path / "vit.safetensors"))
    assert torch.equal(vit.blocks[3].mlp.fc1.weight, state["blocks.3.mlp.fc1.weight"])
    assert torch.equal(vit.head.weight, head)


def test_a_torch_checkpoint_may_nest_its_state_dict(vit, tmp_path):
    torch.save({"state_dict": vit.state_dict(), "other": None}, tmp_path / "vit.pt")
    assert fptplus.read_checkpoint(tmp_path / "vit.pt").keys() == vit.state_dict().keys()


def test_hugging_face_names_are_told_from_timm_names(vit):
    golden = fptplus.read_checkpoint(GOLDEN / "fpt_reference.safetensors")
    frozen = {name.removeprefix("frozen."): t for name, t in golden.items() if name.startswith("frozen.")}
    assert is_hugging_face(frozen) and not is_hugging_face(vit.state_dict())
    assert "blocks.3.attn.qkv.weight" in hugging_face_to_timm(frozen)


def test_a_checkpoint_of_the_wrong_shape_is_refused_by_the_tensor_s_name(vit, tmp_path):
    state = vit.state_dict() | {"blocks.0.norm1.weight": torch.ones(65)}
    with pytest.raises(InvalidInput, match=r"'blocks.0.norm1.weight' .*must have shape \(64,\), got \(65,\)"):
        fptplus.load_vit(vit, state)


def test_a_checkpoint_with_a_tensor_missing_is_refused_by_its_name(vit):
    state = vit.state_dict()
    del state["norm.weight"]
    with pytest.raises(InvalidInput, match="'norm.weight', which is missing"):
        fptplus.load_vit(vit, state)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused_in_one_sentence(vit, tmp_path, suffix, kept):
    whole = tmp_path / f"whole{suffix}"
    save_file(vit.state_dict(), whole) if suffix == ".safetensors" else torch.save(vit.state_dict(), whole)
    content = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InvalidInput, match="truncated or damaged") as error:
        fptplus.read_checkpoint(cut)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_file_of_something_else_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="does not exist"):
        fptplus.read_checkpoint(tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InvalidInput, match="dictionary of tensors"):
        fptplus.read_checkpoint(tmp_path / "list.pt")


def test_an_official_checkpoint_without_a_number_of_heads_says_what_to_pass(tmp_path):
    golden = fptplus.read_checkpoint(GOLDEN / "fptplus_reference.safetensors")
    side = {name.removeprefix("side."): t.clone() for name, t in golden.items() if name.startswith("side.")}
    save_file(side, tmp_path / "side.safetensors")
    with pytest.raises(InvalidInput, match="pass the LPM's number of heads"):
        fptplus.load_official_checkpoint(tmp_path / "side.safetensors")
    assert fptplus.load_official_checkpoint(tmp_path / "side.safetensors", num_heads=3).side.res == 32


def test_a_checkpoint_that_is_no_official_one_is_refused(vit, tmp_path):
    torch.save(vit.state_dict(), tmp_path / "vit.pt")
    with pytest.raises(InvalidInput, match="'fusion_module.prompts', which is missing"):
        fptplus.load_official_checkpoint(tmp_path / "vit.pt")


def test_a_hugging_face_checkpoint_brings_its_layer_norm_eps():
    """timm's 1e-6 was kept, where the checkpoint was made with 1e-12."""
    golden = fptplus.read_checkpoint(GOLDEN / "fpt_reference.safetensors")
    frozen = {name.removeprefix("frozen."): t for name, t in golden.items() if name.startswith("frozen.")}
    vit = VisionTransformer(img_size=96, patch_size=16, embed_dim=48, depth=4, num_heads=3, num_classes=5)
    assert {m.eps for m in vit.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    fptplus.load_vit(vit, frozen)
    assert {m.eps for m in vit.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-12}
