import os
from argparse import Namespace
from pathlib import Path

import numpy as np
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


def other(seed=1, model="test_vit", classes=5):
    torch.manual_seed(seed)
    return create_backbone(model, 64, classes).state_dict()


def assert_loaded(vit, state):
    own = vit.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own if not name.startswith("head."))


def headless(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("head.")}


def test_an_mae_checkpoint_with_its_arguments_decoder_and_mask_token_is_loaded(vit, tmp_path):
    lpm = headless(other())
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.ones(8, 64)}
    decoder |= {"decoder_blocks.0.norm1.weight": torch.ones(8), "decoder_pos_embed": torch.ones(1, 17, 8)}
    arguments = Namespace(lr=1e-3, output_dir="out", betas=(0.9, 0.95), distributed=True)
    torch.save({"model": lpm | decoder, "optimizer": {}, "epoch": 3, "args": arguments}, tmp_path / "mae.pth")
    fptplus.load_vit(vit, fptplus.read_checkpoint(tmp_path / "mae.pth"))
    assert_loaded(vit, lpm)


def test_a_checkpoint_fine_tuned_on_averaged_tokens_is_refused_for_that_reason(vit):
    state = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: t for name, t in other().items()}
    with pytest.raises(InvalidInput, match="'fc_norm.weight' .*fine-tuned on averaged tokens.*its pre-training"):
        fptplus.load_vit(vit, state)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "model.", "module.backbone.", "_orig_mod.model.", "net."])
def test_prefixes_of_training_code_are_removed(vit, prefix):
    fptplus.load_vit(vit, {f"{prefix}{name}": tensor for name, tensor in other().items()})
    assert_loaded(vit, other())


def test_of_a_self_distillation_the_teacher_is_loaded_without_its_projection_head(vit, tmp_path):
    head = {"module.head.mlp.0.weight": torch.ones(8, 64), "module.head.last_layer.weight_g": torch.ones(8, 1)}
    networks = {
        role: {f"module.backbone.{name}": t for name, t in headless(other(seed)).items()} | head
        for role, seed in (("student", 2), ("teacher", 1))
    }
    torch.save(networks | {"epoch": 3, "args": Namespace(arch="vit")}, tmp_path / "dino.pth")
    fptplus.load_vit(vit, fptplus.read_checkpoint(tmp_path / "dino.pth"))
    assert_loaded(vit, other(1))


def test_a_teacher_among_the_names_is_loaded_without_its_student(vit):
    networks = {f"teacher.backbone.{name}": t for name, t in other(1).items()}
    fptplus.load_vit(vit, networks | {f"student.backbone.{name}": t for name, t in other(2).items()})
    assert_loaded(vit, other(1))


def test_two_networks_in_one_checkpoint_are_not_mixed(vit):
    with pytest.raises(InvalidInput, match="the checkpoint holds two, one with names that begin 'backbone.'; save one"):
        fptplus.load_vit(vit, other(1) | {f"backbone.{name}": tensor for name, tensor in other(2).items()})


def test_momentum_contrast_s_base_encoder_is_loaded(vit):
    base = {f"module.base_encoder.{name}": t for name, t in headless(other()).items()}
    momentum = {f"module.momentum_encoder.{name}": t for name, t in headless(other(2)).items()}
    heads = {"module.base_encoder.head.0.weight": torch.ones(8, 64), "module.predictor.0.weight": torch.ones(8, 8)}
    heads |= {"module.base_encoder.head.1.num_batches_tracked": torch.tensor(9)}
    fptplus.load_vit(vit, momentum | base | heads)
    assert_loaded(vit, other())


def hugging_face_state():
    golden = fptplus.read_checkpoint(GOLDEN / "fpt_reference.safetensors")
    return {name.removeprefix("frozen."): t.clone() for name, t in golden.items() if name.startswith("frozen.")}


def test_a_hugging_face_mae_is_read_without_its_decoder():
    state = hugging_face_state()
    decoder = {"decoder.mask_token": torch.ones(1), "decoder.decoder_layers.0.layernorm_before.weight": torch.ones(8)}
    wrapped = {f"vit.{name.removeprefix('vit.')}": tensor for name, tensor in state.items()}
    wrapped |= {"vit.embeddings.mask_token": torch.ones(1)}
    found, expected = hugging_face_to_timm(wrapped | decoder), hugging_face_to_timm(state)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_hugging_face_folder_is_read(tmp_path, name):
    state = hugging_face_state()
    save_file(state, tmp_path / name) if name.endswith("tensors") else torch.save(state, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    assert fptplus.read_checkpoint(tmp_path).keys() == state.keys()


def test_a_folder_without_weights_and_one_in_several_parts_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"a folder that holds model.safetensors or pytorch_model.bin, .* does not"):
        fptplus.read_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InvalidInput, match="in several parts; save them as one"):
        fptplus.read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["dist_token", "deit.embeddings.distillation_token"])
def test_a_distilled_deit_is_refused_for_that_reason(vit, name):
    state = other() | {name: torch.zeros(1, 1, 64), "pos_embed": torch.zeros(1, 18, 64)}
    with pytest.raises(InvalidInput, match=f"'{name}' .*is a distilled DeiT's second class token"):
        fptplus.load_vit(vit, state)


@pytest.mark.parametrize(
    ("dtype", "said"), [(torch.int8, "int8"), (torch.complex64, "complex64"), (torch.float8_e4m3fn, "float8_e4m3fn")]
)
def test_numbers_that_loading_would_cast_are_refused(vit, dtype, said):
    state = other() | {"blocks.0.norm1.weight": torch.ones(64).to(dtype)}
    with pytest.raises(InvalidInput, match=f"'blocks.0.norm1.weight' is {said}; is it quantised"):
        fptplus.load_vit(vit, state)


def test_weights_that_are_not_finite_are_refused(vit):
    with pytest.raises(InvalidInput, match="'norm.weight' in the checkpoint holds NaN or infinity"):
        fptplus.load_vit(vit, other() | {"norm.weight": torch.full((64,), torch.nan)})


def test_half_precision_is_loaded_exactly(vit):
    state = {name: tensor.bfloat16() for name, tensor in other().items()}
    fptplus.load_vit(vit, state)
    assert torch.equal(vit.blocks[0].mlp.fc1.weight, state["blocks.0.mlp.fc1.weight"].float())


@pytest.mark.parametrize("shape", [(1, 16, 64), (1, 1, 64), (17, 64), (1, 17, 32), (2, 17, 64)])
@pytest.mark.parametrize("layout", ["timm", "hugging_face"])
def test_wrong_position_embeddings_are_refused_in_one_sentence(vit, shape, layout):
    state = other() | {"pos_embed": torch.zeros(shape)}
    if layout == "hugging_face":
        state = hugging_face_state() | {"embeddings.position_embeddings": torch.zeros(shape)}
    with pytest.raises(InvalidInput, match=r"'pos_embed' in the checkpoint must have shape \(1, 1 \+ g², 64\), got"):
        fptplus.load_vit(vit, state)


def test_dinov2_with_registers_as_published_is_accepted():
    with torch.device("meta"):
        vit = create_backbone("vit_small_patch14_reg4_dinov2", 518, 5)
        state = vit.state_dict() | {"mask_token": torch.empty(1, 384), "register_tokens": torch.empty(1, 4, 384)}
        state["pos_embed"] = torch.empty(1, 1 + 37 * 37, 384)
    del state["reg_token"]
    fptplus.load_vit(vit, state)


def test_another_patch_size_is_not_resampled(vit):
    patches = other()["patch_embed.proj.weight"]
    doubled = torch.nn.functional.interpolate(patches, scale_factor=2)
    with pytest.raises(InvalidInput, match=rf"patch size {patches.shape[-1]}, it has {2 * patches.shape[-1]}"):
        fptplus.load_vit(vit, other() | {"patch_embed.proj.weight": doubled})


class RunsCode:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("beside", "sentence"),
    [
        (np.float64(1), r"holds a numpy\S+ that only running code .*docs/training.md"),
        (Path("out"), r"holds a pathlib\S*Path that only running code"),
        (RunsCode(), r"would run posix.system when opened; do not trust it"),
    ],
)
def test_objects_that_only_code_restores_are_named_and_not_called_damage(tmp_path, beside, sentence):
    torch.save({"model": other(), "best": beside}, tmp_path / "vit.pt")
    with pytest.raises(InvalidInput, match=sentence) as error:
        fptplus.read_checkpoint(tmp_path / "vit.pt")
    assert "damaged" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_files_that_only_stand_for_a_checkpoint_are_told_apart(tmp_path, suffix, content, sentence):
    (path := tmp_path / f"vit{suffix}").write_bytes(content)
    with pytest.raises(InvalidInput, match=sentence):
        fptplus.read_checkpoint(path)


@pytest.mark.parametrize("suffixes", [(".safetensors", ".bin"), (".pt", ".safetensors")])
def test_a_checkpoint_is_known_by_its_content_not_by_its_name(vit, tmp_path, suffixes):
    written, renamed = (tmp_path / f"vit{suffix}" for suffix in suffixes)
    save_file(other(), written) if suffixes[0] == ".safetensors" else torch.save(other(), written)
    written.rename(renamed)
    assert fptplus.read_checkpoint(renamed).keys() == other().keys()


def test_a_hugging_face_checkpoint_brings_its_layer_norm_eps():
    """timm's 1e-6 was kept, where the checkpoint was made with 1e-12."""
    golden = fptplus.read_checkpoint(GOLDEN / "fpt_reference.safetensors")
    frozen = {name.removeprefix("frozen."): t for name, t in golden.items() if name.startswith("frozen.")}
    vit = VisionTransformer(img_size=96, patch_size=16, embed_dim=48, depth=4, num_heads=3, num_classes=5)
    assert {m.eps for m in vit.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    fptplus.load_vit(vit, frozen)
    assert {m.eps for m in vit.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-12}
