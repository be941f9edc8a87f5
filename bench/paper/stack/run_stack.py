"""Run the official training loop on the paper's software: a Python with PyTorch 2.0.0 and an emulated RTX A6000."""

import json
import subprocess
from pathlib import Path

from bench.cards.gpus import GPUS, PAPER_GPU
from bench.emulate.launch import environment
from bench.paper.printed import PrintedCell
from bench.units import MIB
from fptplus import InvalidInput
from fptplus.paper_training import MESSIDOR2_IMAGES, TABLE2_EPOCH_IMAGES

from .stack_cells import training_of
from .stack_rows import Stack, StackRow

ROOT = Path(__file__).parents[3]
TORCH = "2.0.0"
"""PyTorch version that the official code requires."""

JOB = {
    "batch_size": 16,
    "train_images": TABLE2_EPOCH_IMAGES,
    "validation_images": MESSIDOR2_IMAGES // 10,
    "epochs": 2,
}
"""Training job: Sec. IV-A, and the images per epoch that Table II implies. More epochs reserve no more memory."""


def emulate_stack(python: Path, printed: list[PrintedCell]) -> Stack:
    """Emulate the trainings of printed cells.

    Args:
        python: the interpreter of an environment with PyTorch 2.0.0.
        printed: cells of `stack_cells`.

    Raises:
        CannotEmulate: if the emulated device does not run here.
        InvalidInput: if the interpreter does not exist, has another PyTorch, or fails.
    """
    python, gpu = python.absolute(), GPUS[PAPER_GPU]
    asked = {"job": JOB, "cells": [training_of(one.cell) for one in printed]}
    variables = environment(gpu, torch_folder=_torch_folder(python))
    answer = json.loads(_run([str(python), "-m", "bench.paper.stack.loop"], json.dumps(asked), variables))
    versions = {"torch_version": answer["torch_version"], "cuda_version": answer["cuda_version"], "gpu": gpu.title}
    rows = [
        StackRow(
            table=one.table,
            row=one.row.removesuffix(", supervised"),
            method=one.cell.method,
            model=one.cell.model,
            res=one.cell.res,
            printed_mib=one.printed,
            **{name.replace("_bytes", "_mib"): value / MIB for name, value in memory.items()},
            **versions,
        )
        for one, memory in zip(printed, answer["memory"], strict=True)
    ]
    return Stack(tuple(rows))


def _torch_folder(python: Path) -> Path:
    """Return the folder `torch` in the site-packages of an interpreter."""
    if not python.exists():
        raise InvalidInput(
            f"python must be an interpreter with PyTorch {TORCH}, got {str(python)!r}, which is not "
            "there; `nox -s paper_stack` makes its environment."
        )
    found = _run([str(python), "-c", "import torch; print(torch.__version__, torch.__path__[0])"])
    version, folder = found.split(maxsplit=1)
    if version.partition("+")[0] != TORCH:
        raise InvalidInput(
            f"python must be an interpreter with PyTorch {TORCH}, {str(python)!r} has {version}; "
            "`nox -s paper_stack` makes its environment."
        )
    return Path(folder.strip())


def _run(command: list[str], text: str = "", variables: dict[str, str] | None = None) -> str:
    """Return the standard output of a command that runs in the project's folder."""
    done = subprocess.run(command, input=text, env=variables, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise InvalidInput(
            f"{command[0]} {' '.join(command[1:3])} must end well, got status {done.returncode}: {reason}"
        )
    return done.stdout
