"""`python -m fptplus train`: any method on a store, over a grid of hyperparameters and several seeds."""

import json
import logging
import math
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Self

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from tyro.conf import UseAppendAction

from fptplus.data.augment import AugmentationName
from fptplus.data.presets import preset_of_normalization
from fptplus.distributed import Processes, process_group
from fptplus.errors import InvalidInput
from fptplus.held_lock import held
from fptplus.output_folder import check_output_folder
from fptplus.seed import check_seed
from fptplus.store.feature_store import FeatureStore
from fptplus.store.preloading import largest_train_res
from fptplus.training.checkpoint import BEST, CheckpointInfo, lpm_sha256
from fptplus.training.efficiency import performance_efficiency
from fptplus.training.feed import Feed
from fptplus.training.fine_tuning import FineTuning
from fptplus.training.metrics import Diverged, Scores
from fptplus.training.trainer import EpochReport, History, OnEpoch, evaluate, train
from fptplus.training.training_config import TrainingConfig
from fptplus.whole_file import clear_unfinished, whole_file
from methods import Method, find_method
from methods.backbone import AttentionMode, Checkpointing, create_backbone, patch_size_of
from methods.method import build_for_training

from .device import DeviceName, resolve_device
from .plain_console import plain_console
from .progress_bar import progress_bar

RUNS, TESTED = "runs.csv", "test.json"
TABLE_LIMIT_S = 60.0
"""Writing runs.csv takes a moment; whoever needs longer hangs."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a method on a preloaded store, keep the weights with the best area under the ROC curve (AUC) on the
    validation split, and score them on the test split.

    Give --lr or --weight-decay more than once to search the grid by validation AUC; --repeats trains the best with
    further seeds. Call it again with the same --out to resume where it stopped. Under torchrun all processes train
    together.

    Example: --store stores/messidor2 --method fptplus --out runs/messidor2 --repeats 5
    """

    store: Path
    """Folder that `preload` has written."""

    out: Path
    """Folder for the runs: a subfolder for each, with metrics.csv and best.safetensors, and runs.csv with them all."""

    method: str = "fptplus"
    """Any method of the benchmark, such as fptplus, fpt, full, linear, vpt, adapter, bitfit, lora, adalora."""

    model: str | None = None
    """Backbone: vit_s, vit_b, vit_l or a Vision Transformer in timm. Default: the one that made the store's features,
    else vit_b."""

    weights: str | None = None
    """Weights of the backbone, for methods that train on images: a checkpoint file, a timm pretrained name or a name at
    Hugging Face. Default: random weights."""

    res: int | None = None
    """Image height and width in pixels, for methods that train on images. Default: as many as the store has."""

    epochs: int = 20
    """Passes over the training images."""

    batch_size: int = 16
    """Images per training step, over all processes."""

    lr: UseAppendAction[tuple[float, ...]] = ()
    """Initial learning rate. Default: for FPT and FPT+ on a store that was made with --preset, the one that the
    official code has for that data set; else 0.001."""

    weight_decay: UseAppendAction[tuple[float, ...]] = ()
    """Decoupled weight decay. Default: 0.1."""

    precision: str = "fp32"
    """fp32, or bf16 or fp16 by autocast."""

    optimizer: str = "adamw"
    """Optimizer: adamw, adamw_fused or sgd."""

    attention: AttentionMode = "sdpa"
    """Attention kernel. eager: explicit score matrices. sdpa: the fused kernel that PyTorch chooses. flash, efficient:
    that fused kernel."""

    checkpointing: Checkpointing = "none"
    """Activation checkpointing. block: recompute each block in the backward pass."""

    augmentation: AugmentationName | None = None
    """Random views of the training images. official: flip, colours, then a crop of the original image. square: a crop
    of the square that the image was resized to, then its colours. Default: official, except on a store of an earlier
    version, which does not tell the originals' sizes."""

    seed: int = 0
    """Random seed of the first training."""

    repeats: int = 1
    """Trainings with the best hyperparameters, each with its own seed (paper: 5)."""

    device: DeviceName = "auto"
    """Device to train on. auto: the CUDA device if there is one, else the CPU."""

    tensorboard: bool = False
    """Also write TensorBoard event files (needs the tensorboard package)."""


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One finished training, as a row of runs.csv."""

    method: str
    model: str
    res: int
    dataset: str
    lr: float
    weight_decay: float
    seed: int
    epochs: int
    status: str
    """ok, or diverged: a loss was no longer a number. Such a run has no scores and never wins a search."""

    best_epoch: int | None
    val_auc: float
    auc: float
    """AUC on the test split, in percent, with the weights of the best validation AUC."""

    auc_of_logits: float
    """The same of the raw logits, as the official code reports it and the paper prints it."""

    accuracy: float
    """Accuracy on the test split, in percent."""

    learnable_params: int
    total_params: int
    train_s: float
    """Seconds of training steps over all epochs."""

    store_dtype: str | None
    device: str
    checkpoint: str

    @property
    def diverged(self) -> bool:
        """Whether it has no scores."""
        return self.status == "diverged"


def main(config: TrainConfig) -> int:
    """Search the grid, repeat the best, report."""
    if config.repeats < 1:
        raise InvalidInput(f"repeats must be at least 1, got {config.repeats}.")
    check_seed(config.seed)
    check_seed(config.seed + config.repeats - 1)
    check_output_folder(config.out)
    read_rows(config.out / RUNS)
    console = plain_console()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = resolve_device(config.device)
    with process_group(device) as processes:
        job = Trainings(config, FeatureStore.open(config.store), device, processes)
        grid = [
            job.hyperparameters(lr, weight_decay, config.seed)
            for lr, weight_decay in product(config.lr or (job.default_lr(console),), config.weight_decay or (0.1,))
        ]
        if job.store.sizes is None and config.augmentation is None and processes.is_first:
            console.print(
                "note: a store of an earlier version does not tell the sizes of the original images; its own squares "
                "are cropped (--augmentation square), not the originals as in the paper",
                highlight=False,
                soft_wrap=True,
            )
        rows = {one: job.run(one) for one in dict.fromkeys(grid)}
        scored = [one for one in rows if not rows[one].diverged]
        best = max(scored, key=lambda one: rows[one].val_auc, default=None)
        repeats = [replace(best, seed=config.seed + index) for index in range(config.repeats)] if best else []
        rows |= {one: job.run(one) for one in repeats if one not in rows}
        if processes.is_first:
            write_rows(list(rows.values()), config.out)
            report(console, list(rows.values()), [rows[one] for one in repeats], config.out)
    if best is None:
        raise Diverged(
            f"lr must let at least one training converge, all {len(rows)} diverged (lr "
            f"{', '.join(f'{lr:g}' for lr in sorted({one.lr for one in rows}))}); name a lower one, or train in fp32."
        )
    return 0


@dataclass(frozen=True)
class Trainings:
    """Everything that all trainings of one call share."""

    config: TrainConfig
    store: FeatureStore
    device: str
    processes: Processes

    def __post_init__(self) -> None:
        manifest = self.store.manifest
        if self.method.reads_features and self.config.model not in (None, manifest.model):
            raise InvalidInput(
                f"model must be the one the store's features are of, {manifest.model}, got {self.config.model}; "
                "leave it out or preload again."
            )
        if not self.method.reads_features and self.res > manifest.image_res:
            raise InvalidInput(
                f"res must be at most the {manifest.image_res} pixels of the store's images, got {self.res}; "
                "preload with a higher resolution."
            )
        named_dtype = getattr(self.method, "features", "fp32")  # fp32: a method that takes features of any
        if self.method.reads_features and named_dtype not in ("fp32", manifest.dtype):
            raise InvalidInput(
                f"store must have {named_dtype} features for {self.config.method}, it has {manifest.dtype}; preload "
                "with --store-dtype, or name the method without its number format."
            )

    @property
    def method(self) -> Method:
        """Method that trains the model."""
        return find_method(self.config.method)

    @property
    def model(self) -> str:
        """Name of the backbone."""
        own = self.store.manifest.model if self.method.reads_features else self.config.model
        return own or "vit_b"

    @property
    def res(self) -> int:
        """Height and width in pixels of the images of the large pre-trained model (LPM)."""
        if self.method.reads_features:
            return self.store.manifest.res
        patch = patch_size_of(self.model)
        return self.config.res or largest_train_res(self.store.manifest) // patch * patch

    @cached_property
    def backbone_sha256(self) -> str | None:
        """SHA-256 of a backbone that is trained on images and has weights; None for others."""
        if self.method.reads_features or self.config.weights is None:
            return None
        return lpm_sha256(create_backbone(self.model, self.res, 1, weights=self.config.weights))

    def default_lr(self, console: Console) -> float:
        """Learning rate where none is named: the official code's for FPT and FPT+ on one of the paper's data sets."""
        preset = preset_of_normalization(self.store.manifest.mean, self.store.manifest.std)
        if preset is None or not self.method.reads_features:
            return 1e-3
        if self.processes.is_first:
            console.print(f"lr {preset.lr:g}, the official code's for {preset.title}", highlight=False)
        return preset.lr

    def hyperparameters(self, lr: float, weight_decay: float, seed: int) -> TrainingConfig:
        """Return the hyperparameters of one training.

        Raises:
            InvalidInput: if any is out of range.
        """
        shared = {name: getattr(self.config, name) for name in ("epochs", "batch_size", "precision", "optimizer")}
        return TrainingConfig(lr=lr, weight_decay=weight_decay, seed=seed, **shared)

    def feed(self, split: str, training: TrainingConfig) -> Feed:
        """Return the batches of one split."""
        return Feed(
            store=self.store,
            split=split,
            batch_size=training.batch_size,
            res=self.method.input_res(self.res),
            reads_features=self.method.reads_features,
            device=self.device,
            processes=self.processes,
            seed=training.seed,
            augmentation=self.config.augmentation,
        )

    def info(self, training: TrainingConfig) -> CheckpointInfo:
        """Return what the checkpoint of one training holds."""
        manifest = self.store.manifest
        return CheckpointInfo(
            method=self.config.method,
            model=self.model,
            res=self.res,
            image_res=manifest.image_res,
            classes=manifest.classes,
            mean=manifest.mean,
            std=manifest.std,
            weights=self.config.weights,
            weights_sha256=manifest.weights_sha256 if self.method.reads_features else None,
            dataset=manifest.dataset,
            dataset_fingerprint=manifest.dataset_fingerprint,
            attention=self.config.attention,
            processes=self.processes.world_size,
            decoding=manifest.decoding,
            greys=manifest.greys,
            backbone_sha256=self.backbone_sha256,
            store_dtype=manifest.dtype if self.method.reads_features else None,
            store_precision=manifest.precision if self.method.reads_features else None,
            images_sha256=manifest.images_sha256,
            augmentation=(self.config.augmentation or "official") if manifest.sizes else None,
            training=training,
        )

    def run(self, training: TrainingConfig) -> RunRow:
        """Train with one set of hyperparameters, or take the result of an earlier call, and test."""
        name = f"lr{training.lr:g}-wd{training.weight_decay:g}-seed{training.seed}"
        folder = self.config.out / name
        train_feed, val_feed = self.feed("train", training), self.feed("val", training)
        tuning = build_for_training(
            self.method.for_training(training.epochs * train_feed.steps_per_epoch),
            self.model,
            self.res,
            len(self.store.manifest.classes),
            weights=self.config.weights,
            seed=training.seed,
            attention=self.config.attention,
            checkpointing=self.config.checkpointing,
        )
        if tuning.preloader is not None:
            self.store.check_matches(token_ratio=tuning.preloader.token_ratio, layers=tuning.preloader.tapped_layers)
            self._refuse_relabelling(name)
        tuning.model.to(self.device)
        visible = self.processes.is_first
        with ExitStack() as stack:
            if visible:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(folder / ".training.lock", limit_s=0))
                clear_unfinished(folder, TESTED)
                print(name)
            tested = Tested.read(folder)
            on_step = stack.enter_context(progress_bar(name, visible=visible))
            on_epoch = stack.enter_context(epoch_log(folder, self.config, visible))
            steps: list[int] = []

            def stepped(done: int, total: int) -> None:
                steps.append(done)
                on_step(done, total)

            info = self.info(training)
            history = train(tuning, info, train_feed, val_feed, folder, on_step=stepped, on_epoch=on_epoch)
            if history.diverged:
                tested = None
            elif tested is None or steps:  # one that had ended before keeps its scores, whatever this device gives
                tested = self._tested(tuning, training)
                if visible and tested is not None:
                    tested.write(folder)
        if visible and tested is None:
            print(f"{name} diverged: a loss or an output is no longer a number")
        return self._row(training, history, tuning, folder, tested)

    def _tested(self, tuning: FineTuning, training: TrainingConfig) -> "Tested | None":
        """Scores on the test split; None where the outputs are not numbers."""
        try:
            return Tested(evaluate(tuning.model, self.feed("test", training), training.precision), self.device)
        except Diverged:
            return None

    def _refuse_relabelling(self, name: str) -> None:
        """See that a run of an earlier version, which does not know its store, keeps the dtype that runs.csv notes."""
        path, dtype = self.config.out / RUNS, self.store.manifest.dtype
        for row in read_rows(path).itertuples():
            if (
                Path(row.checkpoint).parent.name == name
                and isinstance(row.store_dtype, str)
                and row.store_dtype != dtype
            ):
                raise InvalidInput(
                    f"out must be a new folder or hold a training of the same kind, {str(path)!r} has {name} with "
                    f"store_dtype {row.store_dtype}, asked is {dtype}; name another folder."
                )

    def _row(
        self,
        training: TrainingConfig,
        history: History,
        tuning: FineTuning,
        folder: Path,
        tested: "Tested | None",
    ) -> RunRow:
        best = None if tested is None else history.best
        scores = tested and tested.scores
        return RunRow(
            method=self.config.method,
            model=self.model,
            res=self.res,
            dataset=self.store.manifest.dataset,
            lr=training.lr,
            weight_decay=training.weight_decay,
            seed=training.seed,
            epochs=training.epochs,
            status="ok" if best else "diverged",
            best_epoch=best.epoch if best else None,
            val_auc=100 * best.val_auc if best else math.nan,
            auc=100 * scores.auc if best else math.nan,
            auc_of_logits=100 * scores.auc_of_logits if best else math.nan,
            accuracy=100 * scores.accuracy if best else math.nan,
            learnable_params=tuning.learnable_params,
            total_params=tuning.total_params,
            train_s=sum(epoch.train_s for epoch in history.epochs),
            store_dtype=self.store.manifest.dtype if self.method.reads_features else None,
            device=tested.device if tested else self.device,
            checkpoint=str(folder / BEST),
        )


@dataclass(frozen=True)
class Tested:
    """How the best weights of a run do on the test split."""

    scores: Scores
    device: str

    def write(self, folder: Path) -> None:
        """Write test.json into the folder of the run."""
        with whole_file(folder / TESTED) as beside:
            beside.write_text(json.dumps(asdict(self.scores) | {"device": self.device}, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read it again; None if there is none, or it is of an earlier version or damaged: then it is made again."""
        try:
            found = json.loads((folder / TESTED).read_text())
            return cls(device=found.pop("device"), scores=Scores(**found))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


@contextmanager
def epoch_log(folder: Path, config: TrainConfig, visible: bool) -> Iterator[OnEpoch]:
    """Yield the function that reports a finished epoch to the terminal and, if asked for, to TensorBoard."""
    with ExitStack() as stack:
        writer = stack.enter_context(_tensorboard(folder)) if config.tensorboard and visible else None

        def tell(report: EpochReport) -> None:
            if visible:
                print(
                    f"epoch {report.epoch:3d}/{config.epochs}  loss {report.train_loss:.4f}  "
                    f"val AUC {100 * report.val_auc:.2f}  val accuracy {100 * report.val_accuracy:.2f}  "
                    f"{report.throughput_img_s:.1f} img/s"
                )
            if writer is not None:
                for name, value in asdict(report).items():
                    writer.add_scalar(name, value, report.epoch)

        yield tell


def _tensorboard(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InvalidInput(
            "tensorboard must be installed for --tensorboard, it is not; pip install tensorboard."
        ) from error
    return SummaryWriter(folder / "tensorboard")


def write_rows(rows: list[RunRow], out: Path) -> None:
    """runs.csv: these trainings, and those of earlier calls into the same folder; two calls at once keep both's."""
    path = out / RUNS
    out.mkdir(parents=True, exist_ok=True)
    with held(out / ".runs.csv.lock", limit_s=TABLE_LIMIT_S):
        clear_unfinished(out, path.name)
        earlier = read_rows(path)
        made = pd.DataFrame([asdict(row) for row in rows])
        table = made if earlier.empty else pd.concat([earlier, made])
        table["status"] = table["status"].fillna("ok")  # rows of an earlier version
        run = table.checkpoint.map(lambda path: Path(path).parent.name)  # the same wherever the folder is called from
        table = table[~run.duplicated(keep="last")].sort_values("checkpoint")
        with whole_file(path) as beside:
            table.to_csv(beside, index=False)


def read_rows(path: Path) -> pd.DataFrame:
    """Read runs.csv; no rows if there is none.

    Raises:
        InvalidInput: if it is no table of runs.
    """
    columns = ["checkpoint", "store_dtype", "status"]
    if not path.exists():
        return pd.DataFrame(columns=columns)
    try:
        table = pd.read_csv(path)
        if not pd.api.types.is_string_dtype(table["checkpoint"]) or table["checkpoint"].isna().any():
            raise ValueError("checkpoint must name a file in every row")
    except (ValueError, KeyError) as error:  # those of pandas and of the encoding are ValueErrors
        raise InvalidInput(
            f"{str(path)!r} must be a table of runs that training has written, it is not ({error}); move it away and "
            "repeat the command, which writes it from the runs themselves."
        ) from error
    return table.reindex(columns=[*table.columns, *(name for name in columns if name not in table)])


def report(console: Console, rows: list[RunRow], repeats: list[RunRow], out: Path) -> None:
    """All trainings, and mean and standard deviation of the repeats of the best hyperparameters."""
    console.print("Area under the ROC curve (AUC) and accuracy, %", style="bold")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    headings = ("lr", "weight decay", "seed", "best epoch", "val AUC", "test AUC", "logits AUC", "accuracy")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        numbers = ("diverged",) if row.diverged else (str(row.best_epoch), *map(_percent, _scores_of(row)))
        table.add_row(f"{row.lr:g}", f"{row.weight_decay:g}", str(row.seed), *numbers)
    console.print(table)
    if converged := [row for row in repeats if not row.diverged]:
        _report_repeats(console, converged, len(repeats))
        console.print(f"weights in {converged[0].checkpoint}", highlight=False, soft_wrap=True)
    console.print(f"runs in {out}/runs.csv", highlight=False, soft_wrap=True)


def _scores_of(row: RunRow) -> tuple[float, ...]:
    return row.val_auc, row.auc, row.auc_of_logits, row.accuracy


def _percent(value: float) -> str:
    return f"{value:.2f}"


def _report_repeats(console: Console, rows: list[RunRow], repeats: int) -> None:
    """Both AUCs over the seeds that converged, and the paper's performance-to-parameter efficiency (PPE)."""
    share = rows[0].learnable_params / rows[0].total_params
    diverged = f" ({repeats - len(rows)} of {repeats} seeds diverged)" if len(rows) < repeats else ""
    auc, auc_of_logits = (_over_seeds([getattr(row, name) for row in rows]) for name in ("auc", "auc_of_logits"))
    console.print(
        f"{rows[0].method}: test AUC {auc}{diverged}, of the raw logits, as the official code reports it, "
        f"{auc_of_logits}; {100 * share:.2f} % of the parameters learnable, "
        f"PPE {performance_efficiency(statistics.mean(row.auc for row in rows), share):.2f}",
        highlight=False,
        soft_wrap=True,
    )


def _over_seeds(values: list[float]) -> str:
    """Mean, and where there are several their standard deviation."""
    deviation = f" ± {statistics.stdev(values):.2f} over {len(values)} seeds" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"
