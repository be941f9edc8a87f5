"""`python -m fptplus evaluate`: score a checkpoint on a split of a store, or classify images."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from tyro.conf import UseAppendAction

from fptplus.errors import InvalidInput
from fptplus.output_folder import check_output_folder
from fptplus.store.feature_store import FeatureStore
from fptplus.training.checkpoint import CheckpointInfo, load_learnable
from fptplus.training.efficiency import performance_efficiency
from fptplus.training.feed import Feed
from fptplus.training.fine_tuning import FineTuning
from fptplus.training.metrics import Scores, check_auc_is_defined
from fptplus.training.trainer import evaluate
from fptplus.whole_file import whole_file
from methods import find_method
from methods.classifier import build_as_trained, load_classifier

from .device import DeviceName, resolve_device
from .plain_console import plain_console


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a checkpoint on a split of a store, or classify single images.

    Scores include the paper's performance-to-parameter and performance-to-memory efficiency (PPE, PME).

    Example: --checkpoint runs/messidor2/lr0.001-wd0.1-seed0/best.safetensors --store stores/messidor2
    """

    checkpoint: Path
    """Checkpoint to score: best.safetensors of a run."""

    store: Path | None = None
    """Store to score on; give either this or images."""

    split: str = "test"
    """Split of the store: train, val or test."""

    image: UseAppendAction[tuple[Path, ...]] = ()
    """Image file to classify; path#3 is its third frame."""

    weights: str | None = None
    """Weights of the frozen large pre-trained model (LPM) for images: a checkpoint file or timm pretrained name.
    Default: those that the checkpoint names."""

    batch_size: int = 16
    """Images per batch."""

    device: DeviceName = "auto"
    """Device to run on. auto: the CUDA device if there is one, else the CPU."""

    memory_mib: tuple[float, float] | None = None
    """Peak memory of the method and of full fine-tuning in MiB, as `python -m bench` prints both, for the PME."""

    out: Path | None = None
    """JSON file to write the scores to."""


def main(config: EvaluateConfig) -> int:
    """Print scores, or the probabilities of images."""
    if (config.store is None) == (not config.image):
        raise InvalidInput("evaluate must be given either --store or --image, got both or neither.")
    if config.memory_mib is not None and not all(0 < size < math.inf for size in config.memory_mib):
        raise InvalidInput(
            f"memory-mib must be two numbers above 0, got {config.memory_mib[0]:g} {config.memory_mib[1]:g}."
        )
    if config.out is not None:
        if config.out.is_dir():
            raise InvalidInput(f"out must be a file to write the scores to, {str(config.out)!r} is a folder.")
        check_output_folder(config.out.parent)
    device, console = resolve_device(config.device), plain_console()
    if config.image:
        classifier = load_classifier(config.checkpoint, weights=config.weights, device=device)
        for path in config.image:
            shares = classifier.predict(path)
            console.print(f"{path}: " + ", ".join(f"{name} {share:.3f}" for name, share in shares.items()))
        return 0
    store, info = FeatureStore.open(config.store), CheckpointInfo.read(config.checkpoint)
    tuning, scores = score_on(store, info, config, device)
    if config.out is not None:
        with whole_file(config.out) as beside:
            beside.write_text(json.dumps(asdict(scores), indent=1) + "\n")
    print_scores(console, scores, store.manifest.classes, config.split)
    print_efficiency(console, tuning, scores, config.memory_mib)
    return 0


def score_on(
    store: FeatureStore, info: CheckpointInfo, config: EvaluateConfig, device: str
) -> tuple[FineTuning, Scores]:
    """Scores of a checkpoint on a split of a store.

    Raises:
        InvalidInput: if the store is not of the checkpoint's LPM and classes, or the split lacks a class.
    """
    manifest, method = store.manifest, find_method(info.method)
    wanted = {"classes": info.classes}
    if method.reads_features:
        wanted |= {"model": info.model, "res": info.res, "weights_sha256": info.weights_sha256}
    for name, expected in wanted.items():
        if (found := getattr(manifest, name)) != expected:
            raise InvalidInput(
                f"store must have the {name} that the checkpoint was trained with, {expected}, {str(config.store)!r} "
                f"has {found}; preload with the same LPM."
            )
    tuning = build_as_trained(info, weights=config.weights)
    load_learnable(tuning.model.to(device), config.checkpoint)
    feed = Feed(
        store=store,
        split=config.split,
        batch_size=config.batch_size,
        res=method.input_res(info.res),
        reads_features=method.reads_features,
        device=device,
    )
    check_auc_is_defined(store.labels[store.rows(config.split)], info.classes, config.split)
    return tuning, evaluate(tuning.model, feed, info.training.precision)


def print_scores(console: Console, scores: Scores, classes: tuple[str, ...], split: str) -> None:
    """AUC and accuracy, each class and the confusion matrix."""
    console.print(f"{split} split; rows are true classes, numbered columns the predicted ones", style="bold")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("Class", overflow="fold")
    for heading in ("AUC %", *map(str, range(1, 1 + len(classes)))):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = zip(classes, scores.auc_by_class, scores.confusion, strict=True)
    for index, (name, auc, counts) in enumerate(rows, start=1):
        table.add_row(str(index), name, f"{100 * auc:.2f}", *map(str, counts))
    console.print(table)
    console.print(f"AUC {100 * scores.auc:.2f} %, accuracy {100 * scores.accuracy:.2f} %", highlight=False)


def print_efficiency(
    console: Console, tuning: FineTuning, scores: Scores, memory_mib: tuple[float, float] | None
) -> None:
    """The paper's performance-to-parameter and performance-to-memory efficiency, PPE and PME (Eq. 9-10).

    Args:
        console: where they are printed.
        tuning: whose parameters are counted.
        scores: of the test.
        memory_mib: of the method and of full fine-tuning; None leaves out PME.
    """
    share = tuning.learnable_params / tuning.total_params
    ppe = performance_efficiency(100 * scores.auc, share)
    console.print(f"{100 * share:.2f} % of the parameters learnable: PPE {ppe:.2f}", highlight=False)
    if memory_mib is not None:
        ratio = memory_mib[0] / memory_mib[1]
        pme = performance_efficiency(100 * scores.auc, ratio)
        console.print(f"{100 * ratio:.2f} % of full fine-tuning's memory, as given: PME {pme:.2f}", highlight=False)
