"""`python -m fptplus evaluate`: score a checkpoint on a split of a store, or classify images."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from tyro.conf import UseAppendAction

from fptplus.errors import InvalidInput
from fptplus.output_folder import check_output_folder
from fptplus.store.feature_store import FeatureStore
from fptplus.training.checkpoint import CheckpointInfo, load_learnable
from fptplus.training.efficiency import performance_efficiency
from fptplus.training.feed import Feed
from fptplus.training.fine_tuning import FineTuning
from fptplus.training.metrics import Scores, check_auc_is_defined, confidence_intervals, score
from fptplus.training.trainer import predict_logits
from fptplus.whole_file import whole_file
from methods import find_method
from methods.classifier import build_as_trained, load_classifier

from .device import DeviceName, resolve_device
from .plain_console import plain_console

MOST_RESAMPLES = 10**5
MOST_HEADING = 10**6
"""Characters of a table's heading that are looked at."""


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
    """Weights of the frozen large pre-trained model (LPM) for images: a checkpoint file, a timm pretrained name
    or a name at Hugging Face. Default: those that the checkpoint names."""

    batch_size: int = 16
    """Images per batch."""

    device: DeviceName = "auto"
    """Device to run on. auto: the CUDA device if there is one, else the CPU."""

    memory_mib: tuple[float, float] | None = None
    """Peak memory of the method and of full fine-tuning in MiB, as `python -m bench` prints both, for the PME."""

    out: Path | None = None
    """JSON file to write the scores and their confidence intervals to, or the probabilities of images."""

    predictions: Path | None = None
    """CSV file to write a row for each image to: its name, the true class where there is a store, the predicted class
    and the probability of each class."""

    resamples: int = 1000
    """Bootstrap resamples for the 95 % confidence intervals; 0: no intervals."""


def main(config: EvaluateConfig) -> int:
    """Print scores, or the class probabilities of images."""
    if (config.store is None) == (not config.image):
        raise InvalidInput("evaluate must be given either --store or --image, got both or neither.")
    if config.memory_mib is not None and not all(0 < size < math.inf for size in config.memory_mib):
        raise InvalidInput(
            f"memory-mib must be two numbers above 0, got {config.memory_mib[0]:g} {config.memory_mib[1]:g}."
        )
    if not 0 <= config.resamples <= MOST_RESAMPLES:
        bound = "at least 0" if config.resamples < 0 else f"at most {MOST_RESAMPLES}"
        raise InvalidInput(f"resamples must be {bound}, got {config.resamples}.")
    for name, is_ours in (("out", _holds_scores), ("predictions", _holds_predictions)):
        if (path := getattr(config, name)) is not None:
            if path.is_dir():
                raise InvalidInput(f"{name} must be a file to write to, {str(path)!r} is a folder.")
            if path.exists() and not is_ours(path):
                raise InvalidInput(
                    f"{name} must be a new file or one that evaluate has written, {str(path)!r} holds something else; "
                    "name another."
                )
            check_output_folder(path.parent)
    device, console = resolve_device(config.device), plain_console()
    if config.image:
        classify(console, config, device)
    else:
        evaluate_split(console, config, device)
    return 0


def _holds_scores(path: Path) -> bool:
    """Whether a file is what --out writes, and not a checkpoint, an image or a store's manifest named by mistake."""
    try:
        found = json.loads(path.read_text()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return False
    first = found[0] if isinstance(found, list) and found else found
    return isinstance(first, dict) and ("auc" in first or {"image", "probabilities"} <= first.keys())


def _holds_predictions(path: Path) -> bool:
    """Whether a file is what --predictions writes, and not the table of a data set."""
    if not path.is_file():
        return False
    try:
        with path.open() as file:
            columns = file.readline(MOST_HEADING).strip().split(",")
    except (OSError, ValueError):
        return False
    return columns[:1] == ["image"] and "predicted_class" in columns


def classify(console: Console, config: EvaluateConfig, device: str) -> None:
    """Print the probabilities of image files, and write them where asked."""
    classifier = load_classifier(config.checkpoint, weights=config.weights, device=device)
    probabilities = []
    for path in config.image:
        shares = classifier.predict(path)
        probabilities.append(shares)
        line = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
        console.print(f"{path}: {line}", markup=False)  # a name may hold brackets
    names = [str(path) for path in config.image]
    if config.out is not None:
        pairs = zip(names, probabilities, strict=True)
        _write_json(config.out, [{"image": name, "probabilities": shares} for name, shares in pairs])
    if config.predictions is not None:
        values = torch.tensor([list(shares.values()) for shares in probabilities], dtype=torch.float64)
        write_predictions(config.predictions, names, values, classifier.classes)


def evaluate_split(console: Console, config: EvaluateConfig, device: str) -> None:
    """Print the scores on a split of a store, and write them where asked."""
    store, info = FeatureStore.open(config.store), CheckpointInfo.read(config.checkpoint)
    tuning, logits, labels = outputs_on(store, info, config, device)
    scores = score(logits, labels)
    intervals = confidence_intervals(logits, labels, resamples=config.resamples) if config.resamples else {}
    if config.out is not None:
        _write_json(config.out, asdict(scores) | {"confidence_intervals_95": intervals})
    if config.predictions is not None:
        rows = store.rows(config.split)
        names = [store.manifest.examples[row].name for row in rows]
        write_predictions(config.predictions, names, logits.double().softmax(dim=1), info.classes, labels)
    print_scores(console, scores, store.manifest.classes, config.split, intervals)
    print_efficiency(console, tuning, scores, config.memory_mib)


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n")


def write_predictions(
    path: Path, names: list[str], probabilities: Tensor, classes: tuple[str, ...], labels: Tensor | None = None
) -> None:
    """A CSV row for each image.

    Args:
        path: of the file.
        names: of N images.
        probabilities: (N, classes).
        classes: their names.
        labels: (N,) true class indices; None where they are not known.
    """
    columns: dict[str, Sequence] = {"image": names}
    if labels is not None:
        columns["true_class"] = [classes[label] for label in labels.tolist()]
    columns["predicted_class"] = [classes[index] for index in probabilities.argmax(dim=1).tolist()]
    columns |= {f"probability_{name}": probabilities[:, index].tolist() for index, name in enumerate(classes)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside:
        pd.DataFrame(columns).to_csv(beside, index=False)


def outputs_on(
    store: FeatureStore, info: CheckpointInfo, config: EvaluateConfig, device: str
) -> tuple[FineTuning, Tensor, Tensor]:
    """What a checkpoint makes of a split of a store: its model, logits (N, classes) and true class indices (N,).

    Both are on the CPU, in the order of the store's rows.

    Raises:
        InvalidInput: if the store has another LPM or other classes than the checkpoint, or the split lacks a class.
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
    logits, labels = predict_logits(tuning.model, feed, info.training.precision)
    return tuning, logits.cpu(), labels.cpu()


def print_scores(
    console: Console,
    scores: Scores,
    classes: tuple[str, ...],
    split: str,
    intervals: Mapping[str, tuple[float, float]],
) -> None:
    """AUC and accuracy with their confidence intervals, each class and the confusion matrix."""
    console.print(f"{split} split; rows are true classes, numbered columns the predicted ones", style="bold")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("Class", overflow="fold")
    for heading in ("AUC %", "Sensitivity %", "Specificity %", *map(str, range(1, 1 + len(classes)))):
        table.add_column(heading, justify="right", no_wrap=True)
    shares = (scores.auc_by_class, scores.sensitivity_by_class, scores.specificity_by_class)
    rows = zip(classes, zip(*shares, strict=True), scores.confusion, strict=True)
    for index, (name, of_class, counts) in enumerate(rows, start=1):
        table.add_row(str(index), escape(name), *(f"{100 * share:.2f}" for share in of_class), *map(str, counts))
    console.print(table)

    def shown(name: str) -> str:
        interval = intervals.get(name)
        between = "" if interval is None else f" (95 % interval {100 * interval[0]:.2f} to {100 * interval[1]:.2f})"
        return f"{100 * getattr(scores, name):.2f} %{between}"

    console.print(
        f"AUC {shown('auc')}, accuracy {shown('accuracy')}; AUC of the raw logits, as the official code reports it: "
        f"{shown('auc_of_logits')}",
        highlight=False,
        soft_wrap=True,
    )


def print_efficiency(
    console: Console, tuning: FineTuning, scores: Scores, memory_mib: tuple[float, float] | None
) -> None:
    """Print the paper's performance-to-parameter and performance-to-memory efficiency, PPE and PME (Eq. 9-10).

    Args:
        console: where to print.
        tuning: the model whose parameters are counted.
        scores: scores on the split.
        memory_mib: peak memory of the method and of full fine-tuning in MiB; None leaves out PME.
    """
    share = tuning.learnable_params / tuning.total_params
    ppe = performance_efficiency(100 * scores.auc, share)
    console.print(f"{100 * share:.2f} % of the parameters learnable: PPE {ppe:.2f}", highlight=False)
    if memory_mib is not None:
        ratio = memory_mib[0] / memory_mib[1]
        pme = performance_efficiency(100 * scores.auc, ratio)
        console.print(f"{100 * ratio:.2f} % of full fine-tuning's memory, as given: PME {pme:.2f}", highlight=False)
