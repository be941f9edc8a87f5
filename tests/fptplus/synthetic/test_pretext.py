import pytest
import torch

from fptplus import InvalidInput, read_checkpoint
from fptplus.__main__ import main
from fptplus.synthetic.fundus import STRUCTURES, draw_example
from fptplus.synthetic.pretext import Pretext, PretextConfig, Scenes, draw_scenes, train_pretext
from methods import create_backbone

NORMALIZATION = ((0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(3, seed=0, patch_size=16)


def test_crops_keep_image_and_map_together():
    """Images that are white exactly where the map says so stay so, mirrored or not."""
    structures = torch.rand(2, 4, 32, 32) < 0.3
    white = structures[:, :3].repeat_interleave(16, 2).repeat_interleave(16, 3).to(torch.uint8) * 255
    crops = Scenes(white, structures).crops(16, 5, torch.Generator().manual_seed(0))
    assert crops.images.shape == (16, 3, 80, 80) and crops.structures.shape == (16, 4, 5, 5)
    assert torch.equal(crops.images[..., ::16, ::16] > 0, crops.structures[:, :3])
    assert len({image.numpy().tobytes() for image in crops.images}) == 16


def test_scenes_are_none_of_the_task_s_images(scenes):
    """Another stream of random numbers: no image is that of a class at the same seed and position."""
    for index, image in enumerate(scenes.images):
        for label in (0, 1):
            assert (torch.from_numpy(draw_example(0, label, index).pixels.copy()).permute(2, 0, 1) != image).any()


def test_a_few_steps_learn_something_and_the_same_seed_learns_the_same():
    config = PretextConfig(crop_res=64, images=4, steps=40, batch_size=16, seed=1)
    results, told = [], []
    for _ in range(2):
        torch.manual_seed(0)
        vit = create_backbone("test_vit", 64, 1, attention="sdpa")
        auc = train_pretext(vit, NORMALIZATION, config, lambda *done: told.append(done))
        results.append((auc, vit.blocks[2].mlp.fc1.weight.clone()))
    assert told == 2 * [(done, 40) for done in range(1, 41)] and list(auc) == [
        *STRUCTURES,
        "microaneurysm against druse",
    ]
    assert auc["disc"] > 0.75
    assert results[0][0] == results[1][0] and torch.equal(results[0][1], results[1][1])


def test_an_lpm_that_sees_spots_and_not_their_kind_scores_at_chance_between_them():
    """Logits that are the same for both kinds of spot: each kind looks found, and the kinds are not told apart."""
    scenes = draw_scenes(4, seed=0, patch_size=16)
    model = Pretext(create_backbone("test_vit", 64, 1), NORMALIZATION)
    lookup = {}
    scenes.images[:, 0, ::16, ::16] = torch.arange(4, dtype=torch.uint8)[:, None, None]  # no two crops are alike
    original = Scenes.crops

    def remembered(self, count, patches, generator):
        crops = original(self, count, patches, generator)
        lookup.update(
            (image.numpy().tobytes(), truth) for image, truth in zip(crops.images, crops.structures, strict=True)
        )
        return crops

    def spots_only(images):
        truth = torch.stack([lookup[image.numpy().tobytes()] for image in images]).flatten(2).transpose(1, 2).float()
        spot = truth[..., 2:].amax(-1, keepdim=True)
        return torch.cat([truth[..., :2], spot, spot, truth], dim=-1)

    model.forward = spots_only
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scenes, "crops", remembered)
        auc = model.score(scenes, torch.Generator().manual_seed(0))
    assert auc["microaneurysm"] > 0.9 and auc["druse"] > 0.9
    assert auc["microaneurysm against druse"] == 0.5


def test_the_command_writes_weights_that_a_backbone_of_another_resolution_takes(tmp_path, capsys):
    out = tmp_path / "weights" / "lpm.safetensors"
    tiny = ["--model", "test_vit", "--crop-res", "64", "--images", "2", "--steps", "2", "--batch-size", "2"]
    assert main(["pretrain", "--out", str(out), *tiny]) == 0
    assert "AUC of patches by structure: vessel" in capsys.readouterr().out
    vit = create_backbone("test_vit", 128, 2, weights=str(out))
    assert torch.equal(vit.blocks[0].attn.qkv.weight, read_checkpoint(out)["blocks.0.attn.qkv.weight"])
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert main(["pretrain", "--out", str(out), *tiny]) == 2
    assert "is there already" in capsys.readouterr().err


def test_impossible_options_are_refused(tmp_path, capsys):
    with pytest.raises(InvalidInput, match="steps must be at least 1, got 0"):
        PretextConfig(steps=0)
    with pytest.raises(InvalidInput, match="crop_res must be at most 512, the size of the images, got 1024"):
        PretextConfig(crop_res=1024)
    assert main(["pretrain", "--out", str(tmp_path / "lpm.pt")]) == 2
    assert "must be a .safetensors file" in capsys.readouterr().err
