"""Files that people keep checkpoints in: their tensors, or the true reason why there are none to be had."""

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fptplus.errors import InvalidInput

StateDict = dict[str, Tensor]

_NESTED = ("state_dict", "model", "teacher", "model_state_dict", "module")
"""Entries that training code keeps the tensors of a model under; of a self-distillation the teacher is published."""

HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")
"""Where a Hugging Face folder keeps the weights, the first that is there."""

_OBJECT = re.compile(r"GLOBAL ([\w.]+) was not an allowed global")
_BLOCKED = re.compile(r"unsupported GLOBAL ([\w.]+) whose module")
_CAUSE = re.compile(r"WeightsUnpickler error: (.+)")
_TORCH_ARCHIVE = b"PK\x03\x04"
_NO_CHECKPOINTS = {
    b"version https://git-lfs": "is the Git LFS pointer to one; fetch the file itself with git lfs pull.",
    b"<": "is a web page; download the file that it links to.",
}
"""How files begin that are often taken for the checkpoint they stand for."""


def read_checkpoint(path: str | Path) -> StateDict:
    """Tensors of a .safetensors or torch file, or of a Hugging Face folder, on the CPU; nested ones are unwrapped.

    A torch file may hold the arguments of its training (argparse.Namespace) besides; no other code's objects are read.

    Raises:
        InvalidInput: if the file is missing, truncated or no checkpoint, or holds objects that only code can restore.
    """
    path = Path(path)
    if path.is_dir():
        path = _file_in(path)
    if not path.is_file():
        raise InvalidInput(f"weights must name a checkpoint file, got {str(path)!r}, which does not exist.")
    try:
        if _is_safetensors(path):
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        # A Namespace is plain data: restoring one sets attributes, no more. As an open file its name does not matter.
        with torch.serialization.safe_globals([Namespace]), path.open("rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # torch.load lets pickle's own errors through
        if "pickle" not in type(error).__module__ + type(error).__name__.lower():
            raise
        raise _unreadable(path, error) from error
    state = _unwrapped(state)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InvalidInput(f"weights must hold a dictionary of tensors, {str(path)!r} does not; save a state_dict.")
    return dict(state)


def _unwrapped(state: object) -> object:
    """The innermost of nested dictionaries that holds the model."""
    while isinstance(state, Mapping):
        inner = [state[key] for key in _NESTED if isinstance(state.get(key), Mapping)]
        if not inner:
            break
        state = inner[0]
    return state


def _file_in(folder: Path) -> Path:
    """The one file of a Hugging Face folder that holds the weights."""
    for name in HUGGING_FACE_FILES:
        if (folder / name).is_file():
            return folder / name
    sharded = any(folder.glob("*.index.json"))
    raise InvalidInput(
        f"weights must name a checkpoint file or a folder that holds {' or '.join(HUGGING_FACE_FILES)}, "
        + (
            f"{str(folder)!r} holds them in several parts; save them as one."
            if sharded
            else f"{str(folder)!r} does not."
        )
    )


def _is_safetensors(path: Path) -> bool:
    """By the file's beginning, a length and a JSON object; by its name where it begins as nothing known."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" or (path.suffix == ".safetensors" and not start.startswith(_TORCH_ARCHIVE))


def _unreadable(path: Path, error: Exception) -> InvalidInput:
    """Why a file cannot be read, and what to do about it."""
    said = f"weights must be a readable checkpoint, {str(path)!r} "
    if isinstance(error, OSError) and error.strerror:
        return InvalidInput(f"{said}cannot be opened ({error.strerror}).")
    if blocked := _BLOCKED.search(str(error)):
        return InvalidInput(f"{said}would run {blocked[1]} when opened; do not trust it.")
    if found := _OBJECT.search(str(error)):
        return InvalidInput(
            f"{said}holds a {found[1]} that only running code from the file restores; if you trust it, "
            "open it with torch.load(…, weights_only=False) and torch.save its tensors alone (docs/training.md)."
        )
    if "TorchScript" in str(error):
        return InvalidInput(f"{said}is a TorchScript program; save the state_dict of torch.jit.load({str(path)!r}).")
    if path.suffix == ".npz":
        return InvalidInput(f"{said}is a NumPy archive; pass the timm name of the same weights.")
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    for beginning, reason in _NO_CHECKPOINTS.items():
        if start.startswith(beginning):
            return InvalidInput(said + reason)
    return InvalidInput(f"{said}is truncated or damaged ({_cause(error)}); copy it again.")


def _cause(error: Exception) -> str:
    """The first sentence of an error's own words; of PyTorch's advice to load without care, the cause alone."""
    if found := _CAUSE.search(str(error)):
        return found[1]
    return str(error).splitlines()[0].partition(". ")[0] if str(error) else type(error).__name__
