"""`python -m fptplus preload`: images, and for FPT and FPT+ their features, into a store that training reads."""

import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from fptplus.data import ImageDataset, open_dataset
from fptplus.data.dataset import SPLITS
from fptplus.data.doubts import counted, named
from fptplus.data.greys import GreyScale
from fptplus.data.presets import find_preset
from fptplus.data.splits import checked_without
from fptplus.distributed import launched
from fptplus.errors import InvalidInput
from fptplus.network.precision import Precision
from fptplus.output_folder import check_output_folder
from fptplus.seed import check_seed
from fptplus.store.feature_store import FeatureStore, StoreDtype
from fptplus.store.grey_survey import find_greys
from fptplus.store.manifest import MANIFEST
from fptplus.store.preloading import preload, stored_image_res
from fptplus.training.checkpoint import lpm_sha256
from methods import Method, find_method
from methods.backbone import published_normalization
from methods.method import build_for_training

from .device import DeviceName, resolve_device
from .plain_console import plain_console
from .progress_bar import progress_bar

MIB = 2**20
MAX_LISTED = 10
MAX_CLASSES = 50
"""Number of classes that are listed with their counts."""


@dataclass(frozen=True, kw_only=True)
class PreloadConfig:
    """Write the store that training reads: every image decoded once, and for FPT and FPT+ the features of the frozen
    large pre-trained model (LPM).

    Call it again to resume where it stopped. Under torchrun each process writes one part of the store.

    Example: --data messidor2 --out stores/messidor2 --weights vit_b.safetensors --preset messidor2
    """

    data: Path
    """Images: class folders, a CSV file of path, label, split and group, or a MedMNIST .npz file."""

    out: Path
    """Folder for the store."""

    method: str = "fptplus"
    """Method that will be trained: fptplus or fpt. All others train on images and get a store of images alone."""

    model: str = "vit_b"
    """LPM: vit_s, vit_b, vit_l or a Vision Transformer (ViT) in timm."""

    weights: str | None = None
    """Weights of the LPM: a checkpoint file, a timm pretrained name or a name at Hugging Face. Default: random
    weights."""

    res: int = 512
    """Height and width in pixels of the images for the LPM, or for other methods to train on."""

    store_dtype: StoreDtype = "bf16"
    """Number format of stored keys and values: bf16 takes half and int8 about a quarter of the space of fp32."""

    batch_size: int = 1
    """Images per pass through the LPM; 1 needs the least memory."""

    precision: Precision = "fp32"
    """Precision of the LPM: fp32, or bf16 or fp16 by autocast."""

    device: DeviceName = "auto"
    """Device for the LPM. auto: the CUDA device if there is one, else the CPU."""

    preset: str | None = None
    """Dataset of the paper whose normalisation to use. Default: the normalisation that the model was published
    with."""

    skip_bad_images: bool = False
    """Leave out images that cannot be decoded, and list them; otherwise stop at the first one."""

    group_level: int | None = None
    """Which folder below a class folder is a patient's, 1 for the first. A random split keeps each patient whole."""

    seed: int = 0
    """Random seed for the split, if the data has none, and for random weights."""


def main(config: PreloadConfig) -> int:
    """Make a store, or resume one."""
    check_seed(config.seed)
    if config.batch_size < 1:
        raise InvalidInput(f"batch_size must be at least 1, got {config.batch_size}.")
    if not (config.out / MANIFEST).exists():  # a finished store may lie where nothing can be written
        check_output_folder(config.out)
    device, console, processes = resolve_device(config.device), plain_console(), launched()
    if device == "cuda":
        torch.cuda.set_device(processes.rank % torch.cuda.device_count())
    dataset = open_dataset(config.data, seed=config.seed, group_level=config.group_level)
    method = find_method(config.method)
    if processes.is_first:
        _announce(console, config, dataset, method)
    made_with = _lpm(console, config, method, len(dataset.classes)) | _normalization(config)
    made_with["greys"] = _surveyed(config, dataset, console, visible=processes.is_first)
    begun_at = time.monotonic()
    try:
        with progress_bar("preload", visible=processes.is_first) as on_progress:
            store = preload(
                dataset,
                config.out,
                **made_with,
                image_res=stored_image_res(method.input_res(config.res), config.out),
                store_dtype=config.store_dtype,
                batch_size=config.batch_size,
                device=device,
                precision=config.precision,
                skip_bad_images=config.skip_bad_images,
                rank=processes.rank,
                world_size=processes.world_size,
                on_progress=on_progress,
            )
    except torch.OutOfMemoryError as error:
        raise InvalidInput(
            f"batch_size must be such that the LPM fits the GPU's memory, {config.batch_size} at {config.res} px is "
            "too large; use a smaller one, or --precision bf16."
        ) from error
    if store is not None:  # the last process to finish has the whole store
        print_summary(console, store, time.monotonic() - begun_at)
        checked_without(dataset, [name for name, _ in store.manifest.skipped])
    return 0


def _surveyed(config: PreloadConfig, dataset: ImageDataset, console: Console, *, visible: bool) -> GreyScale:
    """Return the rule for deep greys, and print what a look at every image has shown."""
    with progress_bar("look at all images", visible=visible) as on_progress:
        survey = find_greys(dataset, config.out, on_progress)
    if visible:
        for note in survey.notes:
            _print_note(console, note)
        if survey.unreadable:
            _print_note(
                console, f"cannot be read: {counted(len(survey.unreadable), 'image')}, {named(survey.unreadable)}"
            )
    if config.skip_bad_images:
        checked_without(dataset, survey.unreadable)
    else:
        for example in (example for example in dataset.examples if example.name in survey.unreadable[:1]):
            dataset.read(example)  # raises what is wrong before anything is computed
    return survey.greys


def _lpm(console: Console, config: PreloadConfig, method: Method, num_classes: int) -> dict[str, object]:
    """The frozen LPM and what it is, for methods that read its features."""
    if not method.reads_features:
        return {}
    tuning = build_for_training(
        method,
        config.model,
        config.res,
        num_classes,
        weights=config.weights,
        seed=config.seed,
        with_lpm=True,
        on_note=partial(_print_note, console),
    )
    weights_sha256 = lpm_sha256(tuning.preloader.vit)
    return {
        "backbone": tuning.preloader,
        "model": config.model,
        "weights_sha256": weights_sha256,
        "res": config.res,
    }


def _normalization(config: PreloadConfig) -> dict[str, tuple[float, float, float]]:
    """Return mean and standard deviation of the channels: the preset's, or those published with the LPM."""
    if config.preset is not None:
        preset = find_preset(config.preset)
        return {"mean": preset.mean, "std": preset.std}
    mean, std = published_normalization(config.model)
    return {"mean": mean, "std": std}


def _announce(console: Console, config: PreloadConfig, dataset: ImageDataset, method: Method) -> None:
    """Print what is about to be read, and how it differs from the preset."""
    counts = ", ".join(f"{len(dataset.indices(split))} {split}" for split in SPLITS)
    console.print(
        f"{dataset.name}: {len(dataset.examples):,} images ({counts}), {len(dataset.classes)} classes", highlight=False
    )
    console.print(_table_of_classes(dataset))
    for note in dataset.notes:
        _print_note(console, note)
    if config.preset is not None and (expected := find_preset(config.preset).expected_images) != len(dataset.examples):
        console.print(f"note: {config.preset} is expected to have {expected:,} images", highlight=False, soft_wrap=True)


def _table_of_classes(dataset: ImageDataset) -> Table:
    """Return a table of the number of images in each class and split."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("class")
    for split in SPLITS:
        table.add_column(split, justify="right")
    counts = {split: Counter(dataset.labels(split)) for split in SPLITS}
    for label, name in enumerate(dataset.classes[:MAX_CLASSES]):
        table.add_row(name, *(str(counts[split][label]) for split in SPLITS))
    if len(dataset.classes) > MAX_CLASSES:
        table.add_row(f"and {len(dataset.classes) - MAX_CLASSES} more")
    return table


def _print_note(console: Console, note: str) -> None:
    console.print(f"note: {note}", highlight=False, soft_wrap=True)


def print_summary(console: Console, store: FeatureStore, seconds: float) -> None:
    """Print images, size and time of a finished store, and what was left out."""
    manifest = store.manifest
    row_bytes = manifest.image_bytes + (store.layout.row_bytes if store.has_features else 0)
    kind = f"{manifest.dtype} features of {manifest.model} at {manifest.res} px and " if store.has_features else ""
    console.print(
        f"{store.folder}: {len(store):,} images, {kind}side images of {manifest.image_res} px; "
        f"{row_bytes / MIB:.2f} MiB an image, {row_bytes * len(store) / MIB:,.1f} MiB in all, {seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    if manifest.skipped:
        console.print(
            f"{len(manifest.skipped)} of the images could not be decoded and were left out:",
            highlight=False,
            soft_wrap=True,
        )
        for name, reason in manifest.skipped[:MAX_LISTED]:
            console.print(f"  {name}: {reason}", highlight=False, soft_wrap=True)
        if len(manifest.skipped) > MAX_LISTED:
            console.print(f"  and {len(manifest.skipped) - MAX_LISTED} more, listed in {store.folder}/manifest.json")
