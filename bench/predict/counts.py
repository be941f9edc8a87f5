"""What is counted for a cell: parameters, and multiply-accumulates (MACs) of one image.

They depend on the architecture alone, so each is counted once and kept in the user's cache folder.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest import mock

import torch

import fptplus
import methods
from bench.cells.building import build_on
from bench.cells.config import CellConfig
from bench.cells.macs import forward_macs, fvcore_macs
from bench.trace.kernels import CudaKernels
from fptplus.build_cache import BuildFailed, cache_folder
from fptplus.network import selection
from fptplus.whole_file import whole_file

COUNTED_BY = ("torch", "timm", "peft", "fvcore")
"""Packages whose versions may affect a count."""

_ENDLESS_BYTES = 2**62


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Parameters, and MACs of one image."""

    learnable_params: int
    total_params: int
    forward_macs: int
    """MACs of a forward pass through what a training step computes."""

    backbone_forward_macs: int | None
    """MACs through the frozen large pre-trained model (LPM) if features are preloaded; None otherwise."""

    fvcore_forward_macs: int | None
    """forward_macs by fvcore's convention, which does not see fused attention; None without fvcore."""


def count(cell: CellConfig, device: str = "meta") -> Counts:
    """Return the parameters and MACs of a cell, from the cache if its architecture was counted before.

    Args:
        cell: the cell whose model is counted.
        device: `meta`, or `cuda` in a process on an emulated card, which counts the same twice as fast.

    Raises:
        InvalidInput: if the method cannot drive the model at this resolution.
    """
    path = _cached(cell)
    try:
        return Counts(**json.loads(path.read_text()))
    except (AttributeError, OSError, ValueError, TypeError):  # no cache, no entry, or a damaged one
        counts = count_anew(cell, device)
    if path is not None:
        try:
            with whole_file(path) as beside:
                beside.write_text(json.dumps(asdict(counts)))
        except OSError:
            pass  # a full disk: count again next time
    return counts


def count_anew(cell: CellConfig, device: str = "meta") -> Counts:
    """Return what count() returns, without the cache."""
    fused = "eager" if cell.attention == "eager" else "sdpa"
    plain = replace(cell, precision="fp32", attention=fused, checkpointing="none")  # fvcore traces no bf16
    tuning, _ = build_on("meta", plain)
    models = [tuning.model] if tuning.preloader is None else [tuning.model, tuning.preloader]
    if device != "meta":
        models = [model.to_empty(device=device) for model in models]
    with torch.device(device):
        inputs, image = tuning.example_inputs(1), torch.empty(1, 3, cell.res, cell.res)
    with _scores_at_once():
        with CudaKernels(plain.attention) if device == "meta" else nullcontext():
            macs, *backbone = [forward_macs(model, of) for model, of in zip(models, (inputs, (image,)), strict=False)]
        by_fvcore = fvcore_macs(tuning.model, inputs)
    return Counts(
        learnable_params=tuning.learnable_params,
        total_params=tuning.total_params,
        forward_macs=macs,
        backbone_forward_macs=backbone[0] if backbone else None,
        fvcore_forward_macs=by_fvcore,
    )


@contextmanager
def _scores_at_once() -> Iterator[None]:
    """Score important tokens in one block: the same products, which take a minute to trace block by block."""
    with mock.patch.object(selection, "GPU_BLOCK_BYTES", _ENDLESS_BYTES):
        yield


def _cached(cell: CellConfig) -> Path | None:
    """Return where the counts of a cell's architecture are kept; None if nothing can be kept."""
    if type(methods.find_method(cell.method)).__module__.partition(".")[0] != methods.__name__:
        return None  # an external method: the name does not depend on its source
    facts = (cell.method, cell.model, cell.res, cell.num_classes, cell.attention == "eager")
    options = (cell.drop_path, cell.lora_rank, cell.lora_targets)
    digest = hashlib.sha256(repr((facts, options, _made_with())).encode()).hexdigest()[:32]
    try:
        folder = cache_folder() / "counts"
        folder.mkdir(exist_ok=True)
    except (BuildFailed, OSError, RuntimeError):  # RuntimeError: there is no home folder
        return None
    return folder / f"{digest}.json"


@cache
def _made_with() -> str:
    """Return the versions of packages and a hash of the sources that a count depends on."""
    digest = hashlib.sha256()
    for package in (fptplus, methods):
        for path in sorted(Path(package.__file__).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return f"{[_version(name) for name in COUNTED_BY]} {digest.hexdigest()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
