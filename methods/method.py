"""What a fine-tuning method is: it turns a ViT into something to train."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fptplus.training.step import TrainingStep

ExampleInputs = Callable[[int], tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """A model that one method made ready to train, with all that a training step needs to know of it."""

    model: nn.Module
    """Gives logits (B, classes). Parameters that move have `requires_grad`, and no others."""

    example_inputs: ExampleInputs
    """Random inputs of the right shapes for a batch size, on the current default device."""

    total_params: int
    """Learnable and frozen parameters, those of an LPM that only makes features included."""

    regularizer: Callable[[], Tensor] | None = None
    """A further loss term, or None."""

    after_step: Callable[[int], None] | None = None
    """Called with the number of steps done after each, or None."""

    method_state: Callable[[], dict] | None = None
    load_method_state: Callable[[dict], None] | None = None
    """What the method remembers between steps beside the parameters: to keep, and to give back. None if nothing."""

    preloader: nn.Module | None = None
    """The frozen pass that makes the inputs once, from images (B, 3, H, W), where inputs are preloaded features."""

    @property
    def is_frozen(self) -> bool:
        """Whether nothing moves: a pass that makes features, not a training."""
        return not any(parameter.requires_grad for parameter in self.model.parameters())

    @property
    def learnable_params(self) -> int:
        """Parameters that move."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def training_step(self, optimizer: torch.optim.Optimizer, **options) -> TrainingStep:
        """The training step of this model; options as of TrainingStep."""
        return TrainingStep(
            self.model,
            optimizer,
            regularizer=self.regularizer,
            after_step=self.after_step,
            batch_axes=batch_axes(self.example_inputs),
            **options,
        )

    def with_bf16_weights(self) -> "FineTuning":
        """The same in bf16 throughout: the model, changed in place, and fp32 inputs; what is stored smaller stays."""
        for module in (self.model, self.preloader):
            if module is not None:
                module.to(torch.bfloat16)
        return replace(self, example_inputs=lambda batch_size: tuple(map(_in_bf16, self.example_inputs(batch_size))))


def _in_bf16(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.dtype == torch.float32 else tensor


def batch_axes(example_inputs: ExampleInputs) -> tuple[int, ...]:
    """The axis of each input that grows with the batch."""
    with torch.device("meta"):
        smaller, larger = example_inputs(2), example_inputs(3)
    return tuple(
        next(axis for axis in range(one.ndim) if one.shape[axis] != other.shape[axis])
        for one, other in zip(smaller, larger, strict=True)
    )


class Method(Protocol):
    """A fine-tuning method with its hyperparameters; METHODS gives it its name."""

    title: str
    """As the paper's tables print it."""

    source: str
    """The publication that introduced it."""

    def build(self, vit: VisionTransformer, res: int) -> FineTuning:
        """Make a ViT ready to train.

        Args:
            vit: a ViT for images of height and width `res`, its head sized for the task. It is changed in place.
            res: pixels.
        """
        ...


def image_fine_tuning(model: nn.Module, res: int, **fields) -> FineTuning:
    """A FineTuning whose input is one batch of images, and whose parameters are all in the model."""
    return FineTuning(
        model=model,
        example_inputs=lambda batch_size: (torch.randn(batch_size, 3, res, res),),
        total_params=sum(parameter.numel() for parameter in model.parameters()),
        **fields,
    )
