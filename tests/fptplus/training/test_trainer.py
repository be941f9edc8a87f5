"""Training: it learns, keeps its best, and an interruption changes nothing."""

import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from toy_store import ToyStore

from fptplus import FPTConfig, InvalidInput, build_fpt
from fptplus.training import trainer
from fptplus.training.checkpoint import CheckpointInfo, learnable_state, read_checkpoint_tensors
from fptplus.training.feed import Feed
from fptplus.training.fine_tuning import FineTuning
from fptplus.training.trainer import evaluate, train
from fptplus.training.training_config import TrainingConfig
from methods import METHODS, create_backbone, find_method
from methods.method import build_for_training

SMALL = FPTConfig(variant="fptplus", side_res=32, tapped_share=1.0, num_prompts=4, reduction_factor=2)


class Killed(Exception):
    pass


def info(config):
    return CheckpointInfo(
        method="toy",
        model="test_vit",
        res=32,
        image_res=40,
        classes=("left", "right"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        weights=None,
        weights_sha256="abc",
        dataset="toy",
        dataset_fingerprint="toy",
        attention="sdpa",
        processes=2,
        training=config,
    )


def small_fptplus(seed=0):
    torch.manual_seed(seed)
    model = build_fpt(SMALL, lpm_dim=64, lpm_heads=2, lpm_depth=2, num_classes=2)
    return FineTuning(
        model=model, example_inputs=lambda batch_size: (torch.randn(batch_size, 3, 32, 32),), total_params=0
    )


def tuning_of(method, total_steps, res=32):
    return build_for_training(find_method(method).for_training(total_steps), "test_vit", res, 2, weights=None, seed=0)


def feeds(reads_features, store=None, batch_size=8):
    shared = {"store": store or ToyStore(), "batch_size": batch_size, "res": 32, "reads_features": reads_features}
    return Feed(split="train", **shared), Feed(split="val", **shared)


def fit(tuning, folder, *, reads_features=True, epochs=4, lr=3e-3, **options):
    config = TrainingConfig(epochs=epochs, batch_size=8, lr=lr)
    return train(tuning, info(config), *feeds(reads_features), folder, **options)


@pytest.mark.parametrize("method", ["fptplus", "linear", "full"])
def test_training_learns_a_task_that_can_be_learnt(method, tmp_path):
    tuning = small_fptplus() if method == "fptplus" else tuning_of(method, 40)
    history = fit(tuning, tmp_path, reads_features=method == "fptplus", epochs=10)
    assert history.epochs[-1].train_loss < 0.5 * history.epochs[0].train_loss
    assert history.best.val_auc == 1.0


def test_the_learning_rate_falls_along_half_a_cosine():
    config = TrainingConfig(lr=0.4)
    assert [config.lr_at(step, 100) for step in (0, 50, 100)] == pytest.approx([0.4, 0.2, 0.0])
    assert config.lr_at(25, 100) == pytest.approx(0.2 * (1 + math.sqrt(0.5)))


@pytest.mark.parametrize("method", ["fptplus", "adalora", "vpt"])
@pytest.mark.parametrize("kill_at", [2, 5, 13])
def test_a_training_killed_at_any_step_ends_where_it_would_have_ended(method, kill_at, tmp_path):
    def make():
        return small_fptplus() if method == "fptplus" else tuning_of(method, 16)

    def killer(done, _total):
        if done == kill_at:
            raise Killed

    whole, broken, features = make(), make(), method == "fptplus"
    expected = fit(whole, tmp_path / "whole", reads_features=features)
    with pytest.raises(Killed):
        fit(broken, tmp_path / "broken", reads_features=features, on_step=killer)
    resumed = make()
    history = fit(resumed, tmp_path / "broken", reads_features=features)
    losses = [(e.train_loss, e.val_loss, e.val_auc, e.lr) for e in history.epochs]
    assert losses == [(e.train_loss, e.val_loss, e.val_auc, e.lr) for e in expected.epochs]
    for name, tensor in learnable_state(whole.model).items():
        assert torch.equal(tensor, learnable_state(resumed.model)[name]), name


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("file write failed")])
def test_an_epoch_that_the_folder_does_not_take_is_kept_elsewhere(tmp_path, monkeypatch, error):
    """torch.save and safetensors have errors of their own for a full disk."""
    whole = fit(small_fptplus(), tmp_path / "whole").epochs
    plain, full = trainer.write_training_state, tmp_path / "full"

    def write(folder, state, *others):
        if folder == full and len(state["history"]) == 2:
            raise error
        plain(folder, state, *others)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "write_training_state", write)
        with pytest.raises(InvalidInput, match="must take epoch 2, it could not be written") as refused:
            fit(small_fptplus(), full)
    kept = Path(re.search("it is kept in '([^']+)'", str(refused.value))[1])
    for path in kept.iterdir():
        shutil.move(path, full / path.name)
    kept.rmdir()
    told = []
    resumed = fit(small_fptplus(), full, on_step=lambda done, total: told.append(done))
    assert [epoch.val_auc for epoch in resumed.epochs] == [epoch.val_auc for epoch in whole]
    assert len(told) == told[-1] // 2, "epochs 3 and 4 only"


def test_a_finished_training_is_not_trained_again(tmp_path):
    first = fit(small_fptplus(), tmp_path)
    again = fit(small_fptplus(), tmp_path, on_step=lambda *_: pytest.fail("a step was taken"))
    assert again.epochs == first.epochs


def test_the_weights_kept_are_those_of_the_best_validation_auc(tmp_path):
    tuning, seen = small_fptplus(), {}
    history = fit(
        tuning,
        tmp_path,
        lr=3e-2,
        on_epoch=lambda r: seen.setdefault(r.epoch, {n: t.clone() for n, t in learnable_state(tuning.model).items()}),
    )
    best = read_checkpoint_tensors(tmp_path / "best.safetensors")
    for name, tensor in seen[history.best.epoch].items():
        assert torch.equal(best[name], tensor)
        assert torch.equal(learnable_state(tuning.model)[name], tensor)
    assert evaluate(tuning.model, feeds(True)[1]).auc == history.best.val_auc
    assert CheckpointInfo.read(tmp_path / "best.safetensors").model == "test_vit"


def test_metrics_have_a_row_an_epoch(tmp_path):
    fit(small_fptplus(), tmp_path)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,train_loss,val_loss,val_auc") and len(lines) == 5


def test_a_folder_with_another_training_is_refused_and_left_alone(tmp_path):
    fit(small_fptplus(), tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(InvalidInput, match=r"holds one with lr 0.003, asked is 0.01; name another folder"):
        fit(small_fptplus(), tmp_path, lr=1e-2)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_truncated_state_is_refused_by_name(tmp_path):
    fit(small_fptplus(), tmp_path)
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:500])
    with pytest.raises(InvalidInput, match=r"last.pt' is damaged"):
        fit(small_fptplus(), tmp_path)


def test_validation_without_one_of_the_classes_is_refused(tmp_path):
    store = ToyStore()
    store.labels[torch.from_numpy(store.rows("val"))] = 0
    with pytest.raises(InvalidInput, match="val must hold images of at least two classes, all are of 'left'"):
        train(small_fptplus(), info(TrainingConfig(batch_size=8)), *feeds(True, store), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": -1}, "batch-size must be at least 1, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"lr": float("nan")}, "lr must be above 0, got nan"),
        ({"weight_decay": -1.0}, "weight-decay must be at least 0, got -1"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(wrong, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        TrainingConfig(**wrong)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_an_epoch_of_its_own_inputs(method, tmp_path):
    reads = method in ("fpt", "fptplus")
    tuning = tuning_of(method, 4, res=64)
    if reads:
        keys = tuning.example_inputs(1)[1].keys
        store = ToyStore(
            res=240, layers=keys.shape[0], heads=keys.shape[2], tokens=keys.shape[3], head_dim=keys.shape[4]
        )
        res = tuning.model.side.res
    else:
        store, res = ToyStore(res=72), 64
    shared = {"store": store, "batch_size": 8, "res": res, "reads_features": reads}
    config = TrainingConfig(epochs=1, batch_size=8)
    before = {n: t.clone() for n, t in learnable_state(tuning.model).items()}
    history = train(tuning, info(config), Feed(split="train", **shared), Feed(split="val", **shared), tmp_path)
    assert math.isfinite(history.epochs[0].train_loss)
    assert any(not torch.equal(before[n], t) for n, t in learnable_state(tuning.model).items())


def test_the_trained_part_is_the_same_with_and_without_the_lpm():
    options = {"weights": None, "seed": 5}
    parts = [
        build_for_training(METHODS["fptplus"], "test_vit", 64, 3, with_lpm=with_lpm, **options)
        for with_lpm in (False, True)
    ]
    for name, tensor in parts[0].model.state_dict().items():
        assert torch.equal(tensor, parts[1].model.state_dict()[name])
    assert parts[0].total_params == parts[1].total_params


def test_backbones_are_made_as_everywhere_else():
    torch.manual_seed(7)
    expected = create_backbone("test_vit", 64, 3)
    tuning = build_for_training(METHODS["full"], "test_vit", 64, 3, weights=None, seed=7)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, tuning.model.state_dict()[name])


@pytest.mark.parametrize("diverges_in", [1, 2])
def test_a_training_whose_loss_is_no_number_ends_as_diverged_and_stays_so(diverges_in, tmp_path):
    def spoil(report):
        if report.epoch == diverges_in - 1:
            with torch.no_grad():
                next(p for p in tuning.model.parameters() if p.requires_grad).fill_(math.nan)

    tuning = small_fptplus()
    lr = 1e30 if diverges_in == 1 else 3e-3
    history = fit(tuning, tmp_path, lr=lr, on_epoch=spoil)
    assert history.diverged and len(history.epochs) == diverges_in
    assert math.isnan(history.epochs[-1].val_auc) and (history.best is None) == (diverges_in == 1)
    again = fit(small_fptplus(), tmp_path, lr=lr, on_step=lambda *_: pytest.fail("a step was taken"))
    assert again.diverged and (tmp_path / "best.safetensors").exists() == (diverges_in == 2)
