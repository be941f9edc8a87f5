"""What is trained: a model, and what its method adds to a training step."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fptplus.network.features import Inputs, map_tensors

from .step import TrainingStep

ExampleInputs = Callable[[int], Inputs]


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """A model that a method made ready to train, with all that a training step needs to know of it.

    The trainer trains it, the benchmark measures it: both the same.
    """

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
    """What the method remembers between steps besides the parameters: to keep, and to give back. None if nothing."""

    preloader: nn.Module | None = None
    """The frozen pass that makes features once, from images (B, 3, H, W), where the inputs hold preloaded ones."""

    @property
    def is_frozen(self) -> bool:
        """Whether nothing moves: a pass that makes features, not a training."""
        return not any(parameter.requires_grad for parameter in self.model.parameters())

    @property
    def learnable_params(self) -> int:
        """Parameters that move."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def training_step(self, optimizer: torch.optim.Optimizer, **options) -> TrainingStep:
        """The training step of this model; options as TrainingStep takes them."""
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
        return replace(self, example_inputs=lambda batch_size: map_tensors(_in_bf16, self.example_inputs(batch_size)))


def _in_bf16(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.dtype == torch.float32 else tensor


def batch_axes(example_inputs: ExampleInputs) -> tuple[int | None, ...]:
    """The axis of each tensor of the inputs that grows with the batch, None where there is no tensor."""
    with torch.device("meta"):
        smaller, larger = (tree_leaves(example_inputs(batch_size)) for batch_size in (2, 3))
    return tuple(
        None if tensor is None else next(axis for axis, size in enumerate(tensor.shape) if size != grown.shape[axis])
        for tensor, grown in zip(smaller, larger, strict=True)
    )
