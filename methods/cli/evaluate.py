"""`python -m fptplus evaluate`: score a checkpoint on a split of a store, or classify images."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from tyro.conf import UseAppendAction

from fptplus.errors import InvalidInput
from fptplus.store.feature_store import FeatureStore
from fptplus.training.checkpoint import load_learnable, read_checkpoint_facts
from fptplus.training.efficiency import performance_efficiency
from fptplus.training.feed import Feed
from fptplus.training.metrics import Scores, check_auc_is_defined
from fptplus.training.trainer import evaluate
from fptplus.whole_file import whole_file
from methods.classifier import load_classifier
from methods.for_training import build_as_trained, input_res, reads_features
from methods.method import FineTuning

from .device import DeviceName, resolve_device


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a checkpoint on a split of a store, with the paper's efficiency figures, or classify single images.

    Example: --checkpoint runs/messidor2/lr0.001-wd0.1-seed0/best.safetensors --store stores/messidor2
    """

    checkpoint: Path
    """best.safetensors of a run."""

    store: Path | None = None
    """Store to score on."""

    split: str = "test"
    """train, val or test."""

    image: UseAppendAction[tuple[Path, ...]] = ()
    """Image file to classify instead, path#3 for its third frame; repeat for several."""

    weights: str | None = None
    """The LPM's checkpoint or timm pretrained name, for images. Default: the one the checkpoint names."""

    batch_size: int = 16
    """Images at a time."""

    device: DeviceName = "auto"
    """Where to run."""

    memory_mib: tuple[float, float] | None = None
    """Peak memory of the method and of full fine-tuning, as `python -m bench` prints both, for the PME of the paper."""

    out: Path | None = None
    """JSON file for the scores."""


def main(config: EvaluateConfig) -> int:
    """Print scores, or the probabilities of images."""
    if (config.store is None) == (not config.image):
        raise InvalidInput("evaluate must be given either --store or --image, got both or neither.")
    if config.memory_mib is not None and not min(config.memory_mib) > 0:
        raise InvalidInput(
            f"memory-mib must be two numbers above 0, got {config.memory_mib[0]:g} {config.memory_mib[1]:g}."
        )
    device, console = resolve_device(config.device), Console()
    if config.image:
        classifier = load_classifier(config.checkpoint, weights=config.weights, device=device)
        for path in config.image:
            shares = classifier.predict(path)
            console.print(f"{path}: " + ", ".join(f"{name} {share:.3f}" for name, share in shares.items()))
        return 0
    facts = read_checkpoint_facts(config.checkpoint)
    store = FeatureStore.open(config.store)
    tuning, scores = score_on(store, facts, config, device)
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(config.out) as beside:
            beside.write_text(json.dumps(asdict(scores), indent=1) + "\n")
    print_scores(console, scores, store.manifest.classes, config.split)
    print_efficiency(console, tuning, scores, config.memory_mib)
    return 0


def score_on(
    store: FeatureStore, facts: dict[str, str], config: EvaluateConfig, device: str
) -> tuple[FineTuning, Scores]:
    """Scores of a checkpoint on a split of a store.

    Raises:
        InvalidInput: if the store is not of the checkpoint's LPM and classes, or the split lacks a class.
    """
    manifest, classes = store.manifest, tuple(json.loads(facts["classes"]))
    features = reads_features(facts["method"])
    wanted = {"classes": classes}
    if features:
        wanted |= {"model": facts["model"], "res": int(facts["res"]), "weights_sha256": facts["weights_sha256"] or None}
    for name, expected in wanted.items():
        if (found := getattr(manifest, name)) != expected:
            raise InvalidInput(
                f"store must have the {name} that the checkpoint was trained with, {expected}, {str(config.store)!r} "
                f"has {found}; preload with the same LPM."
            )
    tuning = build_as_trained(facts, len(classes), weights=config.weights)
    load_learnable(tuning.model.to(device), config.checkpoint)
    feed = Feed(
        store=store,
        split=config.split,
        batch_size=config.batch_size,
        res=input_res(facts["method"], int(facts["res"])),
        reads_features=features,
        device=device,
    )
    check_auc_is_defined(store.labels[store.rows(config.split)], classes, config.split)
    return tuning, evaluate(tuning.model, feed, facts["precision"])


def print_scores(console: Console, scores: Scores, classes: tuple[str, ...], split: str) -> None:
    """AUC and accuracy, each class and the confusion matrix."""
    table = Table(box=box.SIMPLE_HEAD, title=f"{split}: rows are true classes, columns predicted", title_justify="left")
    table.add_column("class")
    table.add_column("AUC %", justify="right")
    for name in classes:
        table.add_column(name, justify="right")
    for name, auc, counts in zip(classes, scores.auc_by_class, scores.confusion, strict=True):
        table.add_row(name, f"{100 * auc:.2f}", *map(str, counts))
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
