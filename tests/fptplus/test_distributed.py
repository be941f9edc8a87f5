"""Two gloo processes train as one process does."""

import json
import os
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch

from fptplus.distributed import Processes, launched
from fptplus.training.checkpoint import read_checkpoint_tensors

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

SCRIPT = """
import json
import sys
from pathlib import Path
import torch
from toy_store import ToyStore
from fptplus import FPTConfig, build_fpt
from fptplus.distributed import process_group
from fptplus.training.checkpoint import CheckpointInfo
from fptplus.training.feed import Feed
from fptplus.training.fine_tuning import FineTuning
from fptplus.training.trainer import evaluate, train
from fptplus.training.training_config import TrainingConfig
from methods import METHODS
from methods.method import build_for_training

folder = Path(sys.argv[1])
torch.set_num_threads(1)


def prompts():
    torch.manual_seed(0)
    config = FPTConfig(variant="fptplus", side_res=32, tapped_share=1.0, num_prompts=4, reduction_factor=2)
    model = build_fpt(config, lpm_dim=64, lpm_heads=2, lpm_depth=2, num_classes=2)
    model.fusion.dropout.p = 0.0
    return FineTuning(model=model, example_inputs=lambda size: (torch.empty(size, 3, 32, 32),), total_params=0)


def lora():
    return build_for_training(METHODS["lora"], "test_vit", 32, 2, weights=None, seed=0)


def results(tuning, processes, folder, reads_features):
    shared = {
        "store": ToyStore(count=42),
        "batch_size": 8,
        "res": 32,
        "reads_features": reads_features,
        "processes": processes,
    }
    feeds = Feed(split="train", **shared), Feed(split="val", **shared)
    config = TrainingConfig(epochs=2, batch_size=8, lr=3e-3)
    info = CheckpointInfo(
        **dict.fromkeys(("method", "model", "weights", "weights_sha256", "dataset", "dataset_fingerprint"), "toy"),
        attention="sdpa",
        res=32,
        image_res=40,
        classes=("left", "right"),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        training=config,
    )
    history = train(tuning, info, *feeds, folder)
    scores = evaluate(tuning.model, Feed(split="test", **shared))
    losses = [[e.train_loss, e.val_loss, e.val_auc] for e in history.epochs]
    return {"losses": losses, "test": [scores.auc, scores.loss]}


with process_group("cpu") as processes:
    found = {
        "fptplus": results(prompts(), processes, folder / "fptplus", True),
        "lora": results(lora(), processes, folder / "lora", False),
    }
    if processes.is_first:
        (folder / "results.json").write_text(json.dumps(found))
"""


def run(folder, world_size):
    """What the script finds as so many processes."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = os.pathsep.join((str(ROOT), str(HERE)))
    environment = os.environ | {"PYTHONPATH": paths, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    return json.loads((folder / "results.json").read_text())


def test_two_processes_train_to_the_result_of_one(tmp_path):
    one, two = (run(tmp_path / str(count), count) for count in (1, 2))
    for method in ("fptplus", "lora"):
        assert two[method]["losses"] == [pytest.approx(losses, rel=1e-4) for losses in one[method]["losses"]]
        assert two[method]["test"] == pytest.approx(one[method]["test"], rel=1e-4)
        weights, others = (read_checkpoint_tensors(tmp_path / str(n) / method / "best.safetensors") for n in (1, 2))
        for name, tensor in weights.items():
            torch.testing.assert_close(others[name], tensor, rtol=1e-3, atol=1e-5)


def test_shares_of_all_processes_make_up_the_whole():
    for count in (0, 1, 7, 16):
        for world_size in (1, 2, 3, 5):
            shares = [list(range(count))[Processes(rank, world_size).share(count)] for rank in range(world_size)]
            assert list(chain.from_iterable(shares)) == list(range(count))


def test_without_torchrun_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched() == Processes(0, 1)
