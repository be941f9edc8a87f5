"""The interface of a fine-tuning method: it makes a ViT ready to train."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Protocol, Self

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fptplus.errors import InvalidInput
from fptplus.training.checkpoint import lpm_sha256
from fptplus.training.fine_tuning import FineTuning

from .backbone import AttentionMode, Checkpointing, create_backbone


class Method(Protocol):
    """A fine-tuning method with its hyperparameters; METHODS gives it its name."""

    title: str
    """Title as the paper's tables print it."""

    source: str
    """The publication that introduced it."""

    @property
    def reads_features(self) -> bool:
        """Whether it trains on preloaded features alongside the images."""
        ...

    def input_res(self, res: int) -> int:
        """Return the height and width in pixels of the images that its model takes, given the ViT's `res`."""
        ...

    def for_training(self, total_steps: int) -> Self:
        """Return the same method for a training of this many steps."""
        ...

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        """Make a ViT ready to train.

        Args:
            vit: a ViT for images of height and width `res`, its head sized for the task. It is changed in place.
            res: image height and width in pixels.
        """
        ...


class ImageMethod:
    """The answers of a method that trains on the ViT's own images and does not depend on the training's length."""

    @property
    def reads_features(self) -> bool:
        """Whether it reads features: it does not."""
        return False

    def input_res(self, res: int) -> int:
        """Return the ViT's resolution."""
        return res

    def for_training(self, total_steps: int) -> Self:
        """Return itself."""
        return self


def image_fine_tuning(model: nn.Module, res: int, **fields) -> FineTuning:
    """Return a FineTuning whose input is one batch of images, and whose parameters are all in the model."""
    return FineTuning(
        model=model,
        example_inputs=lambda batch_size: (torch.randn(batch_size, 3, res, res),),
        total_params=sum(parameter.numel() for parameter in model.parameters()),
        **fields,
    )


@cache
def log_once(note: str) -> None:
    """Warn of something, once in a process."""
    logging.getLogger(__name__).warning(note)


def build_for_training(
    method: Method,
    model: str,
    res: int,
    num_classes: int,
    *,
    weights: str | None,
    seed: int,
    attention: AttentionMode = "sdpa",
    checkpointing: Checkpointing = "none",
    with_lpm: bool = False,
    backbone_sha256: str | None = None,
    on_note: Callable[[str], None] = log_once,
) -> FineTuning:
    """Build a method on a model with real weights, on the CPU; benchmarks build theirs from a cell instead.

    Args:
        method: for the length of its training (`Method.for_training`).
        model, res, num_classes, attention, checkpointing, weights: as create_backbone takes them.
        seed: of all random weights.
        with_lpm: whether a method that trains on preloaded features gets the weights of its large pre-trained model
            (LPM) all the same, to make features of new images.
        backbone_sha256: what the weights must be for a method that keeps some of them (`lpm_sha256`); None for any.
        on_note: told if the model keeps pre-trained weights that are random ones.

    Raises:
        InvalidInput: if the model, resolution or weights are unsuitable.
    """
    needs_lpm = with_lpm or not method.reads_features
    torch.manual_seed(seed)
    with torch.device("cpu" if needs_lpm else "meta"):
        vit = create_backbone(
            model, res, num_classes, attention=attention, checkpointing=checkpointing, weights=weights
        )
    found_sha256 = backbone_sha256 and lpm_sha256(vit)
    torch.manual_seed(seed)  # the trained part is the same whether or not the LPM has drawn its weights
    pretrained = {id(parameter) for name, parameter in vit.named_parameters() if not name.startswith("head.")}
    tuning = method.build(vit, res)
    modules = [module for module in (tuning.model, tuning.preloader) if module is not None]
    if weights is None and needs_lpm and any(id(p) in pretrained for module in modules for p in module.parameters()):
        on_note(f"{model} has random weights (seed {seed}); pass --weights for others")
    keeps_some = any(not parameter.requires_grad for parameter in tuning.model.parameters())
    if found_sha256 != backbone_sha256 and keeps_some:
        raise InvalidInput(
            f"weights must be those of the {model} that was trained on (SHA-256 {backbone_sha256[:12]}…), {weights!r} "
            f"are others ({found_sha256[:12]}…); name its file."
        )
    return tuning
