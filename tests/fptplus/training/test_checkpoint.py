"""What a checkpoint says about itself is read as it was written, by earlier and later releases."""

from dataclasses import fields, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fptplus import InvalidInput
from fptplus.network.weights import set_layer_norm_eps
from fptplus.training.checkpoint import BEST, CheckpointInfo, lpm_sha256, write_training_state
from fptplus.training.training_config import TrainingConfig
from methods import create_backbone

INFO = CheckpointInfo(
    method="fptplus",
    model="vit_b",
    res=512,
    image_res=144,
    classes=("none, or mild", "severe"),
    mean=(0.5, 0.25, 0.125),
    std=(0.5, 0.5, 0.2),
    weights=None,
    weights_sha256="abc",
    dataset="messidor2",
    dataset_fingerprint="def",
    attention="sdpa",
    processes=2,
    training=TrainingConfig(epochs=3, lr=3e-4, precision="bf16", optimizer="sgd", seed=7),
)
ON_DISK = {
    "method": "fptplus",
    "model": "vit_b",
    "res": "512",
    "image_res": "144",
    "classes": '["none, or mild", "severe"]',
    "mean": "[0.5, 0.25, 0.125]",
    "std": "[0.5, 0.5, 0.2]",
    "weights": "",
    "weights_sha256": "abc",
    "dataset": "messidor2",
    "dataset_fingerprint": "def",
    "attention": "sdpa",
    "processes": "2",
    "epochs": "3",
    "batch_size": "16",
    "lr": "0.0003",
    "weight_decay": "0.1",
    "precision": "bf16",
    "optimizer": "sgd",
    "seed": "7",
}
"""The keys and strings of the first checkpoints, which must stay readable."""


def written(folder, metadata):
    save_file({"weight": torch.zeros(1)}, folder / BEST, metadata=metadata)
    return folder / BEST


def test_a_checkpoint_has_the_keys_and_strings_that_it_always_had(tmp_path):
    write_training_state(tmp_path, {}, {"weight": torch.zeros(1)}, INFO)
    with safe_open(tmp_path / BEST, framework="pt") as file:
        assert file.metadata() == ON_DISK


def test_what_is_read_is_what_was_written(tmp_path):
    for info in (INFO, replace(INFO, weights="vit_b.safetensors", weights_sha256=None)):
        write_training_state(tmp_path, {}, {"weight": torch.zeros(1)}, info)
        assert CheckpointInfo.read(tmp_path / BEST) == info


def test_hyperparameters_that_are_not_written_are_the_defaults(tmp_path):
    earlier = {name: text for name, text in ON_DISK.items() if name not in ("processes", "optimizer", "weight_decay")}
    info = CheckpointInfo.read(written(tmp_path, earlier))
    assert (info.processes, info.training.optimizer, info.training.weight_decay) == (1, "adamw", 0.1)


def test_every_hyperparameter_has_a_default_to_be_read_by():
    assert {type(field.default) for field in fields(TrainingConfig)} <= {int, float, str}


@pytest.mark.parametrize(
    "damage", [{"method": None}, {"classes": None}, {"res": "wide"}, {"classes": "none"}, {"lr": "-1"}]
)
def test_a_file_that_training_has_not_written_is_refused(tmp_path, damage):
    metadata = {name: text for name, text in (ON_DISK | damage).items() if text is not None}
    with pytest.raises(InvalidInput, match=r"checkpoint must be one that training has written, .* is not"):
        CheckpointInfo.read(written(tmp_path, metadata))


def test_a_file_without_metadata_and_no_file_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="checkpoint must be one that training has written"):
        CheckpointInfo.read(written(tmp_path, None))
    with pytest.raises(InvalidInput, match="which does not exist"):
        CheckpointInfo.read(tmp_path / "other.safetensors")


def test_the_epsilon_of_an_lpm_s_layer_norms_is_part_of_its_identity():
    torch.manual_seed(0)
    vit = create_backbone("test_vit", 64, 2)
    before = lpm_sha256(vit)
    set_layer_norm_eps(vit, 1e-12)
    assert lpm_sha256(vit) != before
    set_layer_norm_eps(vit, 1e-6)
    assert lpm_sha256(vit) == before
