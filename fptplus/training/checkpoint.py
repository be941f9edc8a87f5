"""What a training leaves on disk: the learnable weights of its best epoch, and the state to go on from.

Frozen weights are not copied: a checkpoint names the LPM it was trained on (by the SHA-256 of its weights).
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fptplus.errors import InvalidInput
from fptplus.whole_file import whole_file

BEST = "best.safetensors"
LAST = "last.pt"


def learnable_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that move, and buffers that are part of the state, by name."""
    moving = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {name for name, _ in model.named_parameters()} - moving
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in frozen}


def load_learnable(model: nn.Module, source: Path | Mapping[str, Tensor]) -> None:
    """Give a model the learnable weights of a checkpoint.

    Raises:
        InvalidInput: if the checkpoint is unreadable, or is of another model or method.
    """
    state = read_checkpoint_tensors(source) if isinstance(source, Path) else source
    own = learnable_state(model)
    for name in sorted(own.keys() | state.keys()):
        if name not in state or name not in own or state[name].shape != own[name].shape:
            raise InvalidInput(
                f"checkpoint must hold the learnable weights of this method and model, {name!r} is missing on one side "
                "or has another shape; name the method and model it was trained with."
            )
    model.load_state_dict(state, strict=False)


def read_checkpoint_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint that a training has written.

    Raises:
        InvalidInput: if the file is missing, truncated or no such checkpoint.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def read_checkpoint_facts(path: Path) -> dict[str, str]:
    """What a checkpoint says it is of: method, model, resolution, classes, LPM, hyperparameters.

    Raises:
        InvalidInput: if the file is missing, truncated or no such checkpoint.
    """
    with _opened(path) as file:
        facts = file.metadata() or {}
    if "method" not in facts:
        raise InvalidInput(f"checkpoint must be one that training has written, {str(path)!r} is not.")
    return facts


def _opened(path: Path):
    if not path.is_file():
        raise InvalidInput(f"checkpoint must name a file, got {str(path)!r}, which does not exist.")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InvalidInput(
            f"checkpoint must be a readable safetensors file, {str(path)!r} is not ({error}); copy it again."
        ) from error


def write_training_state(folder: Path, state: dict, best: dict[str, Tensor] | None, facts: dict[str, str]) -> None:
    """Write the best weights, where given, and then the state to go on from, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    if best is not None:
        contiguous = {name: tensor.cpu().contiguous().clone() for name, tensor in best.items()}
        with whole_file(folder / BEST) as beside:
            save_file(contiguous, beside, metadata=facts)
    with whole_file(folder / LAST) as beside:
        torch.save(state, beside)


def read_training_state(folder: Path, identity: dict[str, str], device: str) -> dict | None:
    """The state to go on from; None where there is none.

    Raises:
        InvalidInput: if the folder holds a training of something else, or its state cannot be read.
    """
    path = folder / LAST
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load lets pickle's and zip's own errors through
        raise InvalidInput(
            f"out must hold a training that can be gone on with, {str(path)!r} is damaged ({error}); "
            "name another folder."
        ) from error
    for name in identity.keys() | state["identity"].keys():
        theirs, ours = state["identity"].get(name), identity.get(name)
        if theirs != ours:
            raise InvalidInput(
                f"out must be a new folder or hold a training of the same kind, {str(folder)!r} holds one with "
                f"{name} {theirs}, asked is {ours}; name another folder."
            )
    return state


def lpm_sha256(vit: nn.Module) -> str:
    """SHA-256 of an LPM's weights, its head left out: names, shapes, types and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(vit.state_dict().items()):
        if not name.startswith("head."):
            tensor = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
