"""What a training run leaves on disk: the learnable weights of its best epoch, and the state to resume from.

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

from fptplus.data.augment import AugmentationName
from fptplus.data.greys import EACH_BY_ITSELF, GreyScale
from fptplus.errors import InvalidInput
from fptplus.whole_file import whole_file

from .training_config import TrainingConfig

BEST = "best.safetensors"
LAST = "last.pt"
NOTED_SINCE = ("backbone_sha256", "store_dtype", "store_precision", "images_sha256")
"""Fields that earlier versions did not note: that they are the same cannot be checked of their runs."""

TIMM_EPS = 1e-6
"""Epsilon of the LayerNorms in timm's ViTs."""

LEFT_OUT = ("augmentation",)
"""Fields that earlier versions did not have, and that are left out where they would be as in these."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint holds: everything needed to rebuild its model and to read images as its training did.

    On disk this is the metadata of a safetensors file, which consists of strings.
    """

    method: str
    """Name of the fine-tuning method."""

    model: str
    """Name of the backbone."""

    res: int
    """Height and width in pixels of the backbone's images."""

    image_res: int
    """Height and width in pixels at which images were stored for training."""

    classes: tuple[str, ...]
    """Class names, in the order of the logits."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Mean and standard deviation of the colour channels, in 0 to 1, that images are normalised with."""

    weights: str | None
    """Checkpoint file or timm pretrained name of the LPM, for methods that train on images; None: random weights."""

    weights_sha256: str | None
    """SHA-256 of the LPM that computed the features (`lpm_sha256`); None for methods that train on images."""

    dataset: str
    dataset_fingerprint: str
    """Name of the data set, and the SHA-256 of its contents."""

    attention: str
    """Attention of the model: eager or sdpa."""

    processes: int = 1
    """Number of processes that trained together."""

    decoding: int = 1
    """Version of the decoding of image files; 1 for checkpoints that do not state it."""

    greys: GreyScale = EACH_BY_ITSELF
    """Which values of deep grey images became black and white."""

    backbone_sha256: str | None = None
    """SHA-256 of the backbone that `weights` gave (`lpm_sha256`), for methods that train on images; None if random."""

    store_dtype: str | None = None
    store_precision: str | None = None
    """Number format of the preloaded features, and precision of the LPM that made them; None without features."""

    augmentation: AugmentationName | None = None
    """How the images were augmented; None for a store of an earlier version, whose views are less sharp (`Views` of
    `fptplus.data.augment`)."""

    images_sha256: str | None = None
    """SHA-256 of the stored images (`StoreManifest.images_sha256`)."""

    training: TrainingConfig
    """Hyperparameters of the training."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what the checkpoint in a file holds.

        Raises:
            InvalidInput: if the file is missing, truncated or not such a checkpoint.
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
        """Do the reverse of `metadata`; hyperparameters that are not written take their defaults."""
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
            **{name: written.get(name) for name in (*LEFT_OUT, *NOTED_SINCE)},
            training=TrainingConfig(**hyperparameters),
        )

    def metadata(self) -> dict[str, str]:
        """Return the metadata to write: one string per field, including the hyperparameters.

        The decoding version is left out if it is that of earlier versions, so that their runs can be resumed, and so
        are fields that earlier versions did not have, where there is nothing to write.
        """
        unknown = (name for name in (*LEFT_OUT, *NOTED_SINCE) if getattr(self, name) is None)
        apart = ["training", "decoding", "greys", *unknown]
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in apart}
        written = {name: _string(value) for name, value in (values | asdict(self.training)).items()}
        decoding = {"decoding": str(self.decoding)} if self.decoding > 1 else {}
        greys = {"greys": json.dumps(ranges)} if (ranges := self.greys.plain()) else {}
        return written | decoding | greys


def _string(value: object) -> str:
    """Return a value as a string for the metadata: None as an empty string, tuples as JSON."""
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, tuple) else str(value)


def learnable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the learnable parameters, and the buffers that are part of the state, by name."""
    moving = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {name for name, _ in model.named_parameters()} - moving
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in frozen}


def load_learnable(model: nn.Module, source: Path | Mapping[str, Tensor]) -> None:
    """Load the learnable weights of a checkpoint into a model.

    Raises:
        InvalidInput: if the checkpoint is unreadable, or belongs to another model or method.
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
    """Read the tensors of a checkpoint that a training run has written.

    Raises:
        InvalidInput: if the file is missing, truncated or not such a checkpoint.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)


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
    """Write the best weights, if given, and then the state to resume from, each file completely or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    if best is not None:
        contiguous = {name: tensor.cpu().contiguous().clone() for name, tensor in best.items()}
        with whole_file(folder / BEST) as beside:
            save_file(contiguous, beside, metadata=info.metadata())
    with whole_file(folder / LAST) as beside:
        torch.save(state, beside)


def read_training_state(folder: Path, info: CheckpointInfo, device: str) -> dict | None:
    """Read the state to resume from; None if there is none.

    Raises:
        InvalidInput: if the folder holds another training run, or its state cannot be read.
    """
    path = folder / LAST
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if not (isinstance(state, dict) and isinstance(state.get("identity"), dict)):
            raise TypeError("it is not what training writes")
    except Exception as error:  # torch.load lets pickle's and zip's own errors through
        raise damaged_state(folder, error) from error
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


def damaged_state(folder: Path, error: Exception) -> InvalidInput:
    """Return what to say of a state to resume from that holds something else than was written."""
    reason = str(error).partition("\n")[0].partition(". ")[0] or type(error).__name__
    return InvalidInput(
        f"out must hold a training that can be resumed, {str(folder / LAST)!r} is damaged ({reason}); name another "
        "folder."
    )


def lpm_sha256(vit: nn.Module) -> str:
    """Return the SHA-256 of an LPM's weights without its head: names, shapes, dtypes and bytes, in order of name.

    A LayerNorm's epsilon counts where it is not timm's, so that LPMs with timm's keep their digests.
    """
    digest = hashlib.sha256()
    for name, module in vit.named_modules():
        if isinstance(module, nn.LayerNorm) and module.eps != TIMM_EPS:
            digest.update(f"{name} eps {module.eps:g}\n".encode())
    for name, tensor in sorted(vit.state_dict().items()):
        if not name.startswith("head."):
            tensor = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
