"""`python -m fptplus study`: what FPT+ gains on the synthetic task, and what a smaller store costs it."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from fptplus.errors import InvalidInput
from fptplus.output_folder import check_output_folder
from fptplus.synthetic.fundus import CLASSES, check_counts, generate
from fptplus.training.training_config import MOST_COUNTED, TrainingConfig
from fptplus.whole_file import whole_file
from methods.backbone import create_backbone

from . import preload, pretrain, train, visualize
from .plain_console import plain_console


@dataclass(frozen=True)
class StudySetting:
    """One way to train on the synthetic task."""

    title: str
    method: str
    store_dtype: str
    own_lpm: bool
    """Whether features come from the large pre-trained model (LPM) trained here; otherwise from random weights."""

    precision: str = "fp32"
    optimizer: str = "adamw"


SETTINGS = {
    "fp32": StudySetting("FPT+, fp32 store", "fptplus", "fp32", True),
    "bf16": StudySetting("FPT+, bf16 store", "fptplus", "bf16", True),
    "int8": StudySetting("FPT+, int8 store", "fptplus", "int8", True),
    "fast": StudySetting("FPT+ in bf16, int8 store", "fptplus", "int8", True, "bf16", "adamw_fused"),
    "random_lpm": StudySetting("FPT+, LPM of random weights", "fptplus", "bf16", False),
    "side_only": StudySetting("side network alone", "side_only", "fp32", True),
}
REFERENCE = "fp32"
OPTIONS = "study.json"
MADE_WITH = ("images_per_class", "model", "pretext_steps")
"""Options that images and weights depend on; what else differs, the trainings notice."""

log = logging.getLogger(__name__)

SIDE_RES = 128


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Compare FPT+ on synthetic images: with each kind of store, with random features, and its side network alone.

    The frozen large pre-trained model (LPM) is a small Vision Transformer (ViT), trained here on the images' structure
    maps. All settings train with the same seeds, which decide order, augmentation and initial weights. Call it again
    to resume where it stopped.

    Example: --out studies/fundus
    """

    out: Path
    """Folder for images, weights, stores, runs, figures and the table, study.csv."""

    images_per_class: int = 400
    """Images per class: 70 % for training, 10 % for validation, 20 % for testing."""

    model: str = "test_vit3"
    """LPM: a ViT in timm."""

    pretext_steps: int = 1000
    """Number of training steps of the LPM."""

    epochs: int = 20
    """Epochs per training."""

    repeats: int = 5
    """Trainings per setting, with seeds from 0."""

    lr: float = 1e-3
    """Initial learning rate."""


def main(config: StudyConfig) -> int:
    """Make what is missing, train all settings, compare them."""
    _check(config)
    check_output_folder(config.out)
    images, weights = config.out / "fundus", config.out / "lpm.safetensors"
    _note_options(config, is_begun=images.exists() or weights.exists())
    if not images.exists():
        generate(images, images_per_class=config.images_per_class)
    if not weights.exists():
        pretrain.main(pretrain.PretrainConfig(out=weights, model=config.model, steps=config.pretext_steps))
    for setting in SETTINGS.values():
        if setting.method == "fptplus":
            options = _preloading(config, setting, weights)
            preload.main(preload.PreloadConfig(data=images, out=_store(config, setting), **options))
    for name, setting in SETTINGS.items():
        settings = {"lr": (config.lr,), "epochs": config.epochs, "repeats": config.repeats}
        settings |= {"method": setting.method, "precision": setting.precision, "optimizer": setting.optimizer}
        if setting.method == "side_only":
            settings |= {"model": config.model, "res": SIDE_RES}
        train.main(train.TrainConfig(store=_store(config, setting), out=config.out / "runs" / name, **settings))
    runs = pd.concat(
        [pd.read_csv(config.out / "runs" / name / "runs.csv").assign(setting=name) for name in SETTINGS]
    ).query("seed < @config.repeats and lr == @config.lr and epochs == @config.epochs")
    with whole_file(config.out / "study.csv") as beside:
        runs.drop(columns="checkpoint").to_csv(beside, index=False)
    _draw(config, images, runs.checkpoint.iloc[0])
    _report(plain_console(), runs)
    return 0


def _check(config: StudyConfig) -> None:
    """Refuse what would be refused after an hour.

    Raises:
        InvalidInput: naming the option.
    """
    check_counts(config.images_per_class)
    if config.repeats < 1:
        raise InvalidInput(f"repeats must be at least 1, got {config.repeats}.")
    TrainingConfig(lr=config.lr, epochs=config.epochs)
    if not 1 <= config.pretext_steps <= MOST_COUNTED:
        bound = "at least 1" if config.pretext_steps < 1 else f"at most {MOST_COUNTED}"
        raise InvalidInput(f"pretext_steps must be {bound}, got {config.pretext_steps}.")
    with torch.device("meta"):
        create_backbone(config.model, SIDE_RES, 1)


def _note_options(config: StudyConfig, *, is_begun: bool) -> None:
    """Keep the options that images and weights are made with, and refuse others.

    Raises:
        InvalidInput: naming the first option that differs from those that the study was begun with.
    """
    path, asked = config.out / OPTIONS, {name: getattr(config, name) for name in MADE_WITH}
    if path.exists():
        try:
            begun = json.loads(path.read_text())
            differing = [name for name in asked if begun[name] != asked[name]]
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInput(
                f"{path} must hold the options of a study, it is damaged; name another folder."
            ) from error
        for name in differing:
            raise InvalidInput(
                f"{name} must be {begun[name]}, with which the study in {config.out} was begun, got {asked[name]}; "
                "name another folder with --out."
            )
    elif is_begun:
        log.warning(
            f"{config.out} holds a study of an earlier version, which did not note {', '.join(MADE_WITH)}: that they "
            "are still the same cannot be checked"
        )
    else:
        config.out.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as beside:
            beside.write_text(json.dumps(asked, indent=1) + "\n")


def _draw(config: StudyConfig, images: Path, checkpoint: str) -> None:
    """Draw Figures 6 and 9 for the last test image with microaneurysms."""
    image = max((images / "test" / CLASSES[1]).iterdir())
    weights = str(config.out / "lpm.safetensors")
    visualize.main(
        visualize.VisualizeConfig(
            checkpoint=Path(checkpoint), image=(image,), weights=weights, out=config.out / "figures"
        )
    )


def _store(config: StudyConfig, setting: StudySetting) -> Path:
    return config.out / "stores" / (setting.store_dtype if setting.own_lpm else "random_lpm")


def _preloading(config: StudyConfig, setting: StudySetting, weights: Path) -> dict[str, object]:
    options = {"model": config.model, "store_dtype": setting.store_dtype}
    return options | {"weights": str(weights)} if setting.own_lpm else options


def _report(console: Console, runs: pd.DataFrame) -> None:
    """Print the test AUC of each setting, and its change from the reference seed by seed."""
    auc = runs.pivot(index="seed", columns="setting", values="auc")
    console.print(f"Test AUC, %, over {len(auc)} seeds", style="bold")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("", "mean", "deviation", "change", "std. error"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, setting in SETTINGS.items():
        change = auc[name] - auc[REFERENCE]
        compared = (f"{change.mean():+.2f}", f"{change.sem():.2f}") if name != REFERENCE else ("", "")
        table.add_row(setting.title, f"{auc[name].mean():.2f}", f"{auc[name].std():.2f}", *compared)
    console.print(table)
