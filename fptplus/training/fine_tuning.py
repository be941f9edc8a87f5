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
    """A model that a method has made ready to train, with everything a training step needs to know about it.

    The trainer and the benchmark both take this class, so that the benchmark measures what is trained.
    """

    model: nn.Module
    """Model that returns logits (B, classes). Exactly the learnable parameters have `requires_grad`."""

    example_inputs: ExampleInputs
    """Function that makes random inputs of the right shapes for a batch size, on the current default device."""

    total_params: int
    """Number of learnable and frozen parameters, including a large pre-trained model (LPM) that only makes features."""

    regularizer: Callable[[], Tensor] | None = None
    """Function that returns a further loss term, or None."""

    after_step: Callable[[int], None] | None = None
    """Function called after each step with the number of steps done, or None."""

    method_state: Callable[[], dict] | None = None
    load_method_state: Callable[[dict], None] | None = None
    """Functions that save and restore what the method remembers between steps besides parameters, or None."""

    preloader: nn.Module | None = None
    """Frozen pass that makes features once from images (B, 3, H, W), if the inputs hold preloaded features; or None."""

    @property
    def is_frozen(self) -> bool:
        """Whether there are no learnable parameters: this is a pass that makes features, not a training."""
        return not any(parameter.requires_grad for parameter in self.model.parameters())

    @property
    def learnable_params(self) -> int:
        """Number of learnable parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def training_step(self, optimizer: torch.optim.Optimizer, **options) -> TrainingStep:
        """Return the training step of this model; for the options see TrainingStep."""
        return TrainingStep(
            self.model,
            optimizer,
            regularizer=self.regularizer,
            after_step=self.after_step,
            batch_axes=batch_axes(self.example_inputs),
            **options,
        )

    def with_bf16_weights(self) -> "FineTuning":
        """Return the same in bf16 throughout: the model, in place, and fp32 inputs; smaller stored types stay."""
        for module in (self.model, self.preloader):
            if module is not None:
                module.to(torch.bfloat16)
        return replace(self, example_inputs=lambda batch_size: map_tensors(_in_bf16, self.example_inputs(batch_size)))


def _in_bf16(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.dtype == torch.float32 else tensor


def batch_axes(example_inputs: ExampleInputs) -> tuple[int | None, ...]:
    """Return, for each tensor of the inputs, the axis that grows with the batch; None where there is no tensor."""
    with torch.device("meta"):
        smaller, larger = (tree_leaves(example_inputs(batch_size)) for batch_size in (2, 3))
    return tuple(
        None if tensor is None else next(axis for axis, size in enumerate(tensor.shape) if size != grown.shape[axis])
        for tensor, grown in zip(smaller, larger, strict=True)
    )
