"""`python -m fptplus train`: a folder of runs never takes one training for another."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fptplus.__main__ import main
from fptplus.held_lock import held
from fptplus.store.manifest import StoreManifest
from fptplus.training.checkpoint import CheckpointInfo
from methods import create_backbone
from methods.cli import train as train_command

NAME = "lr0.001-wd0.1-seed0"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images, two LPMs, and a store of either number format and one of images alone."""
    root = tmp_path_factory.mktemp("train")
    for index in range(18):
        split, label = ("train", "val", "test")[index % 3], ("no", "yes")[index // 3 % 2]
        (root / "images" / split / label).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / split / label / f"{index}.png")
    for seed in (0, 1):
        write_lpm(root / f"lpm{seed}.safetensors", seed)
    for dtype in ("bf16", "int8"):
        preload(root, dtype, "--store-dtype", dtype, "--weights", str(root / "lpm0.safetensors"))
    preload(root, "images_only", "--method", "lora")
    return root


def write_lpm(path, seed):
    torch.manual_seed(seed)
    save_file(create_backbone("test_vit", 64, 2).state_dict(), path)


def preload(root, name, *options):
    shared = ["--data", str(root / "images"), "--model", "test_vit", "--res", "64", "--device", "cpu"]
    assert main(["preload", "--out", str(root / name), *shared, *options]) == 0


def train(store, out, *options):
    shared = ["--epochs", "1", "--batch-size", "3", "--device", "cpu"]
    return main(["train", "--store", str(store), "--out", str(out), *shared, *options])


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_on_another_store_dtype_is_not_relabelled(root, tmp_path, capsys):
    assert train(root / "bf16", tmp_path) == 0
    before = contents(tmp_path)
    assert train(root / "int8", tmp_path) == 2
    assert "store_dtype bf16, asked is int8" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_replaced_lpm_does_not_overwrite_finished_scores(root, tmp_path, capsys):
    lpm, options = tmp_path / "lpm.safetensors", ("--method", "lora", "--model", "test_vit")
    write_lpm(lpm, 0)
    assert train(root / "images_only", tmp_path / "runs", *options, "--weights", str(lpm)) == 0
    before = contents(tmp_path / "runs")
    write_lpm(lpm, 1)
    assert train(root / "images_only", tmp_path / "runs", *options, "--weights", str(lpm)) == 2
    assert "holds one with backbone_sha256" in capsys.readouterr().err
    assert contents(tmp_path / "runs") == before

    checkpoint = str(tmp_path / "runs" / NAME / "best.safetensors")
    assert main(["evaluate", "--checkpoint", checkpoint, "--store", str(root / "images_only"), "--device", "cpu"]) == 2
    assert "weights must be those of the test_vit that was trained on" in capsys.readouterr().err


def test_full_fine_tuning_is_evaluated_whatever_has_become_of_its_first_weights(root, tmp_path):
    lpm = tmp_path / "lpm.safetensors"
    write_lpm(lpm, 0)
    options = ("--method", "full", "--model", "test_vit", "--weights", str(lpm))
    assert train(root / "images_only", tmp_path / "runs", *options) == 0
    write_lpm(lpm, 1)
    checkpoint = str(tmp_path / "runs" / NAME / "best.safetensors")
    assert main(["evaluate", "--checkpoint", checkpoint, "--store", str(root / "images_only"), "--device", "cpu"]) == 0


def test_images_preloaded_again_into_the_same_store_do_not_go_on_with_a_run(root, tmp_path, capsys):
    assert train(root / "images_only", tmp_path, "--method", "linear", "--model", "test_vit") == 0
    run = torch.load(tmp_path / NAME / "last.pt", weights_only=True)
    assert len(run["identity"]["images_sha256"]) == 64
    torch.save(run | {"identity": run["identity"] | {"images_sha256": "0"}}, tmp_path / NAME / "last.pt")
    assert train(root / "images_only", tmp_path, "--method", "linear", "--model", "test_vit") == 2
    assert "holds one with images_sha256 0, asked is" in capsys.readouterr().err


def as_of_an_earlier_version(run):
    """A run as it was before it knew its store."""
    state = torch.load(run / "last.pt", weights_only=True)
    identity = {k: v for k, v in state["identity"].items() if not k.startswith(("store_", "images_", "backbone_"))}
    torch.save(state | {"identity": identity}, run / "last.pt")


def test_a_run_of_an_earlier_version_is_gone_on_with_and_what_cannot_be_checked_is_said(root, tmp_path, caplog):
    assert train(root / "bf16", tmp_path) == 0
    as_of_an_earlier_version(tmp_path / NAME)
    assert train(root / "bf16", tmp_path) == 0
    said = [record.message for record in caplog.records if "earlier version" in record.message]
    assert len(said) == 1 and "did not note store_dtype, store_precision, images_sha256" in said[0]


def test_a_run_of_an_earlier_version_keeps_the_dtype_that_its_row_has(root, tmp_path, capsys):
    assert train(root / "bf16", tmp_path) == 0
    as_of_an_earlier_version(tmp_path / NAME)
    assert train(root / "int8", tmp_path) == 2
    assert f"has {NAME} with store_dtype bf16, asked is int8" in capsys.readouterr().err
    assert list(pd.read_csv(tmp_path / "runs.csv").store_dtype) == ["bf16"]


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("fptplus_int8", "store must have int8 features for fptplus_int8, it has bf16"),
        ("fptplus_ratio0.5", "must have token_ratio 0.5, it has 0.2"),
        ("fpt", "must have layers"),
    ],
)
def test_a_method_is_not_trained_on_the_features_of_another(root, tmp_path, capsys, method, sentence):
    assert train(root / "bf16", tmp_path, "--method", method) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_a_checkpoint_knows_its_store(root, tmp_path):
    assert train(root / "int8", tmp_path, "--method", "fptplus_int8") == 0
    info = CheckpointInfo.read(tmp_path / NAME / "best.safetensors")
    assert (info.store_dtype, info.store_precision, info.backbone_sha256) == ("int8", "fp32", None)
    assert json.loads((tmp_path / NAME / "test.json").read_text())


def test_a_finished_run_keeps_its_scores_and_what_a_killed_one_left_is_cleared(root, tmp_path, monkeypatch, capsys):
    assert train(root / "bf16", tmp_path) == 0
    before = contents(tmp_path)
    left = ("best.safetensors", "last.pt", "metrics.csv", "test.json")
    for path in (*(tmp_path / NAME / f".{name}.0123abcd.unfinished" for name in left), tmp_path / "notes.unfinished"):
        path.write_text("half")
    (tmp_path / ".runs.csv.89abcdef.unfinished").write_text("half")
    monkeypatch.setattr(train_command, "evaluate", None)  # another device would give other scores
    assert train(root / "bf16", tmp_path) == 0
    after = contents(tmp_path)
    assert after.pop(tmp_path / "notes.unfinished") == b"half"
    assert list(after) == list(before) and after[tmp_path / "runs.csv"] == before[tmp_path / "runs.csv"]
    with held(tmp_path / NAME / ".training.lock", limit_s=0):
        assert train(root / "bf16", tmp_path) == 2
    assert f"one process at a time, process {os.getpid()} (" in capsys.readouterr().err


def test_the_augmentation_is_part_of_a_run_and_an_earlier_store_keeps_its_own(root, tmp_path, capsys):
    assert train(root / "bf16", tmp_path / "new", "--augmentation", "square") == 0
    assert CheckpointInfo.read(tmp_path / "new" / NAME / "best.safetensors").augmentation == "square"
    assert train(root / "bf16", tmp_path / "new") == 2
    assert "holds one with augmentation square, asked is official" in capsys.readouterr().err

    shutil.copytree(root / "bf16", tmp_path / "store")
    replace(StoreManifest.read(root / "bf16"), sizes=()).write(tmp_path / "store")  # as earlier versions wrote it
    assert train(tmp_path / "store", tmp_path / "old") == 0
    assert "its own squares are cropped" in capsys.readouterr().out
    assert "augmentation" not in CheckpointInfo.read(tmp_path / "old" / NAME / "best.safetensors").metadata()
    assert train(tmp_path / "store", tmp_path / "old", "--augmentation", "official") == 2
    assert "augmentation must be square for a store of an earlier version" in capsys.readouterr().err


@pytest.mark.parametrize("harm", [[], {"identity": None}, {"history": [{}]}, {"optimizer": {}}, {"model": 5}])
def test_a_damaged_state_or_table_of_runs_is_named_and_left_alone(root, tmp_path, capsys, harm):
    if not (root / "finished").exists():
        assert train(root / "bf16", root / "finished") == 0
    shutil.copytree(root / "finished", tmp_path / "runs")
    state = torch.load(tmp_path / "runs" / NAME / "last.pt", weights_only=True)
    torch.save(state | harm if harm else harm, tmp_path / "runs" / NAME / "last.pt")
    assert train(root / "bf16", tmp_path / "runs") == 2
    assert "last.pt' is damaged (" in capsys.readouterr().err
    (tmp_path / "runs" / "runs.csv").write_bytes(b"\xff\xfe")
    assert train(root / "bf16", tmp_path / "runs") == 2
    assert "must be a table of runs that training has written" in capsys.readouterr().err
    assert (tmp_path / "runs" / "runs.csv").read_bytes() == b"\xff\xfe"
