"""What a training leaves on disk: the learnable weights of its best epoch, and the state to resume from.

Frozen weights are not copied: a checkpoint names the large pre-trained model (LPM) it was trained on, by the SHA-256 of
its weights.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fptplus.data.greys import EACH_BY_ITSELF, GreyScale
from fptplus.errors import InvalidInput
from fptplus.whole_file import whole_file

from .training_config import TrainingConfig

BEST = "best.safetensors"
LAST = "last.pt"
NOTED_SINCE = ("backbone_sha256", "store_dtype", "store_precision", "images_sha256")
"""Fields that earlier versions did not note: that they are the same cannot be checked of their runs."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint is of: all that it takes to build its model again and to read images as its training did.

    On disk it is the metadata of a safetensors file, which are strings.
    """

    method: str
    """Name of the fine-tuning method."""

    model: str
    """Name of the backbone."""

    res: int
    """Height and width in pixels of the backbone's images."""

    image_res: int
    """Height and width in pixels that images were kept at for training."""

    classes: tuple[str, ...]
    """Names, in the order of the logits."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of the colour channels in 0 to 1, that images are normalised by."""

    weights: str | None
    """Checkpoint file or timm pretrained name of the LPM, for methods that train on images; None for random weights."""

    weights_sha256: str | None
    """Of the LPM that made the features (`lpm_sha256`); None for methods that train on images."""

    dataset: str
    dataset_fingerprint: str
    """Name of the data set, and the SHA-256 of what it holds."""

    attention: str
    """eager or sdpa."""

    processes: int = 1
    """That trained together."""

    decoding: int = 1
    """Version by which image files were decoded; 1 in those that do not say it."""

    greys: GreyScale = EACH_BY_ITSELF
    """What values of deep grey images were black and white."""

    backbone_sha256: str | None = None
    """Of the backbone that `weights` gave (`lpm_sha256`), for methods that train on images; None for random weights."""

    store_dtype: str | None = None
    store_precision: str | None = None
    """Number format of the preloaded features, and precision of the LPM that made them; None without features."""

    images_sha256: str | None = None
    """Of the stored images (`StoreManifest.images_sha256`)."""

    training: TrainingConfig
    """How it was trained."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """What the checkpoint in a file is of.

        Raises:
            InvalidInput: if the file is missing, truncated or no such checkpoint.
        """
        with _opened(path) as file:
            written = file.metadata() or {}
        try:
            return cls._of_metadata(written)
        except (KeyError, ValueError) as error:
            raise InvalidInput(
                f"checkpoint must be one that training has written, {str(path)!r} is not (metadata: {error})."
            ) from error

    @classmethod
    def _of_metadata(cls, written: Mapping[str, str]) -> Self:
        """The other way than `metadata`; hyperparameters that are not written are the defaults."""
        hyperparameters = {
            field.name: type(field.default)(written[field.name])
            for field in fields(TrainingConfig)
            if field.name in written
        }
        return cls(
            **{name: written[name] for name in ("method", "model", "dataset", "dataset_fingerprint", "attention")},
            **{name: int(written[name]) for name in ("res", "image_res")},
            **{name: tuple(json.loads(written[name])) for name in ("classes", "mean", "std")},
            **{name: written[name] or None for name in ("weights", "weights_sha256")},
            processes=int(written.get("processes", 1)),
            decoding=int(written.get("decoding", 1)),
            greys=GreyScale.from_plain(json.loads(written.get("greys", "null"))),
            **{name: written.get(name) for name in NOTED_SINCE},
            training=TrainingConfig(**hyperparameters),
        )

    def metadata(self) -> dict[str, str]:
        """As it is written: one string a field, those of the hyperparameters among them.

        How files were decoded is left out where it is as in earlier versions, so that their runs resume, and so is
        what earlier versions did not note where there is nothing to note.
        """
        apart = ["training", "decoding", "greys", *(name for name in NOTED_SINCE if getattr(self, name) is None)]
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in apart}
        written = {name: _string(value) for name, value in (values | asdict(self.training)).items()}
        decoding = {"decoding": str(self.decoding)} if self.decoding > 1 else {}
        greys = {"greys": json.dumps(ranges)} if (ranges := self.greys.plain()) else {}
        return written | decoding | greys


def _string(value: object) -> str:
    """A value of a checkpoint's metadata: None as nothing, tuples as JSON."""
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, tuple) else str(value)


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


def _opened(path: Path) -> AbstractContextManager[safe_open]:
    if not path.is_file():
        raise InvalidInput(f"checkpoint must name a file, got {str(path)!r}, which does not exist.")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InvalidInput(
            f"checkpoint must be a readable safetensors file, {str(path)!r} is not ({error}); copy it again."
        ) from error


def write_training_state(folder: Path, state: dict, best: dict[str, Tensor] | None, info: CheckpointInfo) -> None:
    """Write the best weights, where given, and then the state to resume from, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    if best is not None:
        contiguous = {name: tensor.cpu().contiguous().clone() for name, tensor in best.items()}
        with whole_file(folder / BEST) as beside:
            save_file(contiguous, beside, metadata=info.metadata())
    with whole_file(folder / LAST) as beside:
        torch.save(state, beside)


def read_training_state(folder: Path, info: CheckpointInfo, device: str) -> dict | None:
    """The state to resume from; None where there is none.

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
    identity = info.metadata()
    unknown = [name for name in NOTED_SINCE if name in identity and name not in state["identity"]]
    if unknown:
        log.warning(
            f"{folder} holds a run of an earlier version, which did not note {', '.join(unknown)}: that they are still "
            "the same cannot be checked"
        )
    for name in sorted((identity.keys() | state["identity"].keys()) - set(unknown)):
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
