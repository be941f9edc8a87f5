"""The comparison on the synthetic task, at its smallest size."""

from dataclasses import fields

import pandas as pd

from fptplus.__main__ import main
from methods.cli.study import SETTINGS
from methods.cli.train import RunRow, write_rows

LEAST = ["--images-per-class", "12", "--model", "test_vit", "--pretext-steps", "1", "--epochs", "1", "--repeats", "2"]


def test_every_setting_is_trained_with_every_seed_and_compared(tmp_path, capsys):
    assert main(["study", "--out", str(tmp_path), *LEAST]) == 0
    printed = capsys.readouterr().out
    for setting in SETTINGS.values():
        assert setting.title in printed
    runs = pd.read_csv(tmp_path / "study.csv")
    assert sorted(zip(runs.setting, runs.seed, strict=True)) == sorted(
        (name, seed) for name in SETTINGS for seed in (0, 1)
    )
    assert set(runs.query("setting == 'side_only'").method) == {"side_only"} and set(runs.dataset) == {"fundus"}
    mean = runs.query("setting == 'bf16'").auc.mean()
    assert f"{mean:.2f}" in printed
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".png", ".svg"}
    before = (tmp_path / "study.csv").read_bytes()
    assert main(["study", "--out", str(tmp_path), *LEAST]) == 0
    assert (tmp_path / "study.csv").read_bytes() == before, "called again, it trains nothing anew"
    capsys.readouterr()
    assert main(["study", "--out", str(tmp_path), *LEAST, "--images-per-class", "13"]) == 2
    assert "images_per_class must be 12, with which the study" in capsys.readouterr().err


def test_a_run_whose_folder_was_moved_has_one_row(tmp_path):
    """A run is known by its own folder, whatever path leads there."""
    other = {field.name: 0 for field in fields(RunRow)}
    for parent in ("there", "here"):
        rows = [RunRow(**other | {"checkpoint": f"{parent}/lr0.001-seed{seed}/best.safetensors"}) for seed in (0, 1)]
        write_rows(rows, tmp_path)
    assert list(pd.read_csv(tmp_path / "runs.csv").checkpoint) == [row.checkpoint for row in rows]
