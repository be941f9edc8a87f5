"""`train` over a grid: what diverges never wins, and nothing is lost."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from fptplus.__main__ import main
from fptplus.data.presets import find_preset
from fptplus.distributed import Processes
from methods.cli.train import RunRow, TrainConfig, Trainings, write_rows


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    assert main(["synthesize", "--out", str(folder / "fundus"), "--images-per-class", "10", "--res", "64"]) == 0
    options = ["--model", "test_vit", "--res", "64", "--method", "linear"]
    assert main(["preload", "--data", str(folder / "fundus"), "--out", str(folder / "store"), *options]) == 0
    return folder / "store"


def train(store, out, *lrs):
    options = [option for lr in lrs for option in ("--lr", lr)]
    shared = ["--method", "linear", "--model", "test_vit", "--epochs", "2", "--batch-size", "4"]
    return main(["train", "--store", str(store), "--out", str(out), *shared, *options])


def test_a_training_that_diverges_is_recorded_and_never_the_grid_s_winner(store, tmp_path, capsys):
    assert train(store, tmp_path, "1e37", "1e-3") == 0
    runs = pd.read_csv(tmp_path / "runs.csv").set_index("lr")
    assert runs.status.to_dict() == {1e37: "diverged", 1e-3: "ok"}
    assert runs.auc.isna().to_dict() == {1e37: True, 1e-3: False}
    printed = capsys.readouterr().out
    assert "lr1e+37-wd0.1-seed0 diverged" in printed and "weights in " in printed
    assert "logits AUC" in printed and "as the official code reports it" in printed


def test_a_grid_that_diverges_altogether_fails(store, tmp_path, capsys):
    assert train(store, tmp_path, "1e37") == 2
    assert "lr must let at least one training converge, all 1 diverged (lr 1e+37)" in capsys.readouterr().err
    assert list(pd.read_csv(tmp_path / "runs.csv").status) == ["diverged"]


@pytest.mark.parametrize(("method", "lr"), [("fptplus", 2e-4), ("lora", 1e-3)])
def test_the_learning_rate_of_the_preset_reaches_the_training(method, lr):
    preset = find_preset("messidor2")
    manifest = SimpleNamespace(dtype="bf16", mean=preset.mean, std=preset.std, model="test_vit", image_res=144, res=64)
    config = TrainConfig(store="store", out="runs", method=method, res=64)
    job = Trainings(config, SimpleNamespace(manifest=manifest), "cpu", Processes())
    assert job.default_lr(Console(quiet=True)) == lr


def test_calls_that_end_at_once_keep_each_other_s_rows(tmp_path):
    blank = {field.name: 0 for field in fields(RunRow)} | {"status": "ok"}
    rows = [RunRow(**blank | {"checkpoint": f"runs/seed{seed}/best.safetensors"}) for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: write_rows([row], tmp_path), rows))
    assert sorted(pd.read_csv(tmp_path / "runs.csv").checkpoint) == sorted(row.checkpoint for row in rows)


def test_rows_of_an_earlier_version_are_kept_as_done(tmp_path):
    blank = {field.name: 0 for field in fields(RunRow)} | {"status": "ok"}
    write_rows([RunRow(**blank | {"checkpoint": "runs/old/best.safetensors"})], tmp_path)
    pd.read_csv(tmp_path / "runs.csv").drop(columns=["status", "auc_of_logits"]).to_csv(
        tmp_path / "runs.csv", index=False
    )
    write_rows([RunRow(**blank | {"checkpoint": "runs/new/best.safetensors"})], tmp_path)
    assert list(pd.read_csv(tmp_path / "runs.csv").status) == ["ok", "ok"]
