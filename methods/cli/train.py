"""`python -m fptplus train`: any method on a store, over a grid of hyperparameters and several seeds."""

import json
import logging
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from tyro.conf import UseAppendAction

from fptplus.distributed import Processes, process_group
from fptplus.errors import InvalidInput
from fptplus.output_folder import check_output_folder
from fptplus.store.feature_store import FeatureStore
from fptplus.store.preloading import largest_train_res
from fptplus.training.checkpoint import BEST, CheckpointInfo
from fptplus.training.efficiency import performance_efficiency
from fptplus.training.feed import Feed
from fptplus.training.fine_tuning import FineTuning
from fptplus.training.trainer import EpochReport, History, OnEpoch, evaluate, train
from fptplus.training.training_config import TrainingConfig
from fptplus.whole_file import whole_file
from methods import Method, find_method
from methods.backbone import AttentionMode, Checkpointing, patch_size_of
from methods.method import build_for_training

from .device import DeviceName, resolve_device
from .plain_console import plain_console
from .progress_bar import progress_bar


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
    """Weights of the backbone, for methods that train on images: a checkpoint file or timm pretrained name. Default:
    random weights."""

    res: int | None = None
    """Image height and width in pixels, for methods that train on images. Default: as many as the store has."""

    epochs: int = 20
    """Passes over the training images."""

    batch_size: int = 16
    """Images per training step, over all processes."""

    lr: UseAppendAction[tuple[float, ...]] = ()
    """Initial learning rate. Default: 0.001."""

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
    best_epoch: int
    val_auc: float
    auc: float
    """On the test split, in percent, of the weights of the best validation AUC."""

    accuracy: float
    """On the test split, in percent."""

    learnable_params: int
    total_params: int
    train_s: float
    """Seconds of training steps, all epochs."""

    store_dtype: str | None
    device: str
    checkpoint: str


def main(config: TrainConfig) -> int:
    """Search, repeat, report."""
    if config.repeats < 1:
        raise InvalidInput(f"repeats must be at least 1, got {config.repeats}.")
    check_output_folder(config.out)
    console = plain_console()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = resolve_device(config.device)
    with process_group(device) as processes:
        job = Trainings(config, FeatureStore.open(config.store), device, processes)
        grid = [
            job.hyperparameters(lr, weight_decay, config.seed)
            for lr, weight_decay in product(config.lr or (1e-3,), config.weight_decay or (0.1,))
        ]
        rows = {one: job.run(one) for one in dict.fromkeys(grid)}
        best = max(rows, key=lambda one: rows[one].val_auc)
        repeats = [replace(best, seed=config.seed + index) for index in range(config.repeats)]
        rows |= {one: job.run(one) for one in repeats if one not in rows}
        if processes.is_first:
            write_rows(list(rows.values()), config.out)
            report(console, list(rows.values()), [rows[one] for one in repeats], config.out)
    return 0


@dataclass(frozen=True)
class Trainings:
    """What all trainings of one call share."""

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

    @property
    def method(self) -> Method:
        """What the model is trained by."""
        return find_method(self.config.method)

    @property
    def model(self) -> str:
        """Name of the backbone."""
        own = self.store.manifest.model if self.method.reads_features else self.config.model
        return own or "vit_b"

    @property
    def res(self) -> int:
        """Height and width in pixels of the LPM's images."""
        if self.method.reads_features:
            return self.store.manifest.res
        patch = patch_size_of(self.model)
        return self.config.res or largest_train_res(self.store.manifest.image_res) // patch * patch

    def hyperparameters(self, lr: float, weight_decay: float, seed: int) -> TrainingConfig:
        """Those of one training.

        Raises:
            InvalidInput: if any is out of range.
        """
        shared = {name: getattr(self.config, name) for name in ("epochs", "batch_size", "precision", "optimizer")}
        return TrainingConfig(lr=lr, weight_decay=weight_decay, seed=seed, **shared)

    def feed(self, split: str, training: TrainingConfig) -> Feed:
        """Batches of one split."""
        return Feed(
            store=self.store,
            split=split,
            batch_size=training.batch_size,
            res=self.method.input_res(self.res),
            reads_features=self.method.reads_features,
            device=self.device,
            processes=self.processes,
            seed=training.seed,
        )

    def info(self, training: TrainingConfig) -> CheckpointInfo:
        """What the checkpoint of one training is of."""
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
            training=training,
        )

    def run(self, training: TrainingConfig) -> RunRow:
        """Train with one set of hyperparameters, or take what an earlier call has trained, and test."""
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
        tuning.model.to(self.device)
        visible = self.processes.is_first
        if visible:
            print(name)
        with progress_bar(name, visible=visible) as on_step, epoch_log(folder, self.config, visible) as on_epoch:
            history = train(
                tuning,
                self.info(training),
                train_feed,
                val_feed,
                folder,
                on_step=on_step,
                on_epoch=on_epoch,
            )
        scores = evaluate(tuning.model, self.feed("test", training), training.precision)
        if visible:
            with whole_file(folder / "test.json") as beside:
                beside.write_text(json.dumps(asdict(scores), indent=1) + "\n")
        return self._row(training, history, tuning, folder, scores.auc, scores.accuracy)

    def _row(
        self,
        training: TrainingConfig,
        history: History,
        tuning: FineTuning,
        folder: Path,
        auc: float,
        accuracy: float,
    ) -> RunRow:
        return RunRow(
            method=self.config.method,
            model=self.model,
            res=self.res,
            dataset=self.store.manifest.dataset,
            lr=training.lr,
            weight_decay=training.weight_decay,
            seed=training.seed,
            epochs=training.epochs,
            best_epoch=history.best.epoch,
            val_auc=100 * history.best.val_auc,
            auc=100 * auc,
            accuracy=100 * accuracy,
            learnable_params=tuning.learnable_params,
            total_params=tuning.total_params,
            train_s=sum(epoch.train_s for epoch in history.epochs),
            store_dtype=self.store.manifest.dtype if self.method.reads_features else None,
            device=self.device,
            checkpoint=str(folder / BEST),
        )


@contextmanager
def epoch_log(folder: Path, config: TrainConfig, visible: bool) -> Iterator[OnEpoch]:
    """Where a finished epoch is told: the terminal, and TensorBoard where asked."""
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
    """runs.csv: these trainings, and those of earlier calls into the same folder."""
    path = out / "runs.csv"
    earlier = [pd.read_csv(path)] if path.exists() else []
    table = pd.concat([*earlier, pd.DataFrame([asdict(row) for row in rows])])
    run = table.checkpoint.map(lambda path: Path(path).parent.name)  # the same wherever the folder is called from
    table = table[~run.duplicated(keep="last")].sort_values("checkpoint")
    with whole_file(path) as beside:
        table.to_csv(beside, index=False)


def report(console: Console, rows: list[RunRow], repeats: list[RunRow], out: Path) -> None:
    """All trainings, and mean and standard deviation of the repeats of the best hyperparameters."""
    console.print("Area under the ROC curve and accuracy, %", style="bold")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("lr", "weight decay", "seed", "best epoch", "val AUC", "test AUC", "test accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        numbers = (f"{row.val_auc:.2f}", f"{row.auc:.2f}", f"{row.accuracy:.2f}")
        table.add_row(f"{row.lr:g}", f"{row.weight_decay:g}", str(row.seed), str(row.best_epoch), *numbers)
    console.print(table)
    aucs, share = [row.auc for row in repeats], repeats[0].learnable_params / repeats[0].total_params
    deviation = f" ± {statistics.stdev(aucs):.2f} over {len(aucs)} seeds" if len(aucs) > 1 else ""
    mean = statistics.mean(aucs)
    console.print(
        f"{repeats[0].method}: test AUC {mean:.2f}{deviation}; {100 * share:.2f} % of the parameters learnable, "
        f"PPE {performance_efficiency(mean, share):.2f}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"runs in {out}/runs.csv, weights in {repeats[0].checkpoint}", highlight=False, soft_wrap=True)
