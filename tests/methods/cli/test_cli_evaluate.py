"""`evaluate` and `visualize` write what they are asked for, each image under a name of its own."""

import json
from pathlib import Path

import pandas as pd
import pytest

from fptplus.__main__ import main
from methods.cli.visualize import figure_names
from methods.method import log_once


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store and a checkpoint of the linear method, after one epoch."""
    root = tmp_path_factory.mktemp("evaluate")
    assert main(["synthesize", "--out", str(root / "fundus"), "--images-per-class", "20", "--res", "64"]) == 0
    shared = ["--model", "test_vit", "--method", "linear"]
    assert main(["preload", "--data", str(root / "fundus"), "--out", str(root / "store"), "--res", "64", *shared]) == 0
    options = ["--store", str(root / "store"), "--out", str(root), "--epochs", "1", "--batch-size", "4"]
    assert main(["train", *options, *shared]) == 0
    next(root.glob("lr*")).rename(root / "run")
    return root


def evaluate(folder, *options):
    return main(["evaluate", "--checkpoint", str(folder / "run" / "best.safetensors"), *map(str, options)])


def test_images_are_written_where_asked(folder, tmp_path):
    images = sorted((folder / "fundus" / "test").rglob("*.png"))[:2]
    named = [option for path in images for option in ("--image", path)]
    files = ["--out", tmp_path / "new" / "images.json", "--predictions", tmp_path / "images.csv"]
    assert evaluate(folder, *named, *files) == 0
    written = json.loads((tmp_path / "new" / "images.json").read_text())
    table = pd.read_csv(tmp_path / "images.csv")
    assert [row["image"] for row in written] == list(table.image) == list(map(str, images))
    for row, (_, line) in zip(written, table.iterrows(), strict=True):
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert line.predicted_class == max(row["probabilities"], key=row["probabilities"].get)
        assert {name: line[f"probability_{name}"] for name in row["probabilities"]} == pytest.approx(
            row["probabilities"]
        )


def test_a_split_has_a_row_for_each_image_and_scores_with_intervals(folder, tmp_path, capsys):
    files = ["--out", tmp_path / "scores.json", "--predictions", tmp_path / "split.csv"]
    assert evaluate(folder, "--store", folder / "store", "--resamples", "20", *files) == 0
    scores, table = json.loads((tmp_path / "scores.json").read_text()), pd.read_csv(tmp_path / "split.csv")
    assert (table.image.map(lambda name: Path(name).parent.name) == table.true_class).all() and len(table) == 8
    assert (table.true_class == table.predicted_class).mean() == scores["accuracy"]
    low, high = scores["confidence_intervals_95"]["auc"]
    assert low <= scores["auc"] <= high and len(scores["specificity_by_class"]) == 2
    printed = capsys.readouterr().out
    assert "Sensitivity %" in printed and f"(95 % interval {100 * low:.2f} to {100 * high:.2f})" in printed


def test_random_weights_are_said_wherever_a_model_keeps_them(folder, tmp_path, caplog):
    log_once.cache_clear()
    assert evaluate(folder, "--store", folder / "store", "--resamples", "0") == 0
    assert "test_vit has random weights (seed 0); pass --weights for others" in caplog.text
    caplog.clear()
    log_once.cache_clear()
    options = ["--store", str(folder / "store"), "--epochs", "1", "--batch-size", "4"]
    shared = ["--model", "test_vit", "--res", "32"]
    assert main(["train", *options, *shared, "--method", "side_only", "--out", str(tmp_path / "side")]) == 0
    assert "random weights" not in caplog.text, "it has no pre-trained weights at all"
    assert main(["train", *options, *shared, "--method", "lora", "--out", str(tmp_path / "lora")]) == 0
    assert "test_vit has random weights (seed 0)" in caplog.text


def test_images_of_equal_stems_have_figures_of_their_own(tmp_path):
    (tmp_path / "scan.tif").touch()
    files = ("a/eye.png", "b/eye.png", "eye.v2.png", "c/eye.jpg", "eye-2.png")
    images = [Path(name) for name in files] + [tmp_path / "scan.tif#2", tmp_path / "scan.tif#3"]
    names = figure_names(images)
    assert names == ["eye", "eye-2", "eye.v2", "eye-3", "eye-2-2", "scan_frame2", "scan_frame3"]


def test_what_evaluate_has_not_written_is_never_overwritten(folder, tmp_path, capsys):
    """--out best.safetensors wrote scores over the checkpoint."""
    (tmp_path / "table.csv").write_text("path,label\n")
    mistaken = {"--out": [folder / "run" / "best.safetensors", folder / "store" / "manifest.json", Path("/dev/null")]}
    mistaken["--predictions"] = [tmp_path / "table.csv", folder / "runs.csv"]
    for option, paths in mistaken.items():
        for path in paths:
            before = path.read_bytes()
            assert evaluate(folder, "--store", folder / "store", option, path) == 2
            assert "holds something else" in capsys.readouterr().err and path.read_bytes() == before
    assert evaluate(folder, "--image", "/dev/zero") == 2
    assert "must be an ordinary file, it is a device or a pipe" in capsys.readouterr().err
    assert evaluate(folder, "--store", folder / "store", "--split", "x") == 2
    assert "split must be one of train, val, test, got 'x'" in capsys.readouterr().err
