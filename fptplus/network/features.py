"""What the fusion modules read of the frozen large pre-trained model (LPM): keys and values of its important tokens."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


class Features(NamedTuple):
    """Keys K_M and values V_M of the tapped layers (FPT+, Eq. 8), as the LPM gives them or as a store keeps them.

    A tuple of tensors, so that whatever moves, traces or shares out the inputs of a model takes it for what it is.
    """

    keys: Tensor
    """(layers, B, heads, n, head_dim), of any type."""

    values: Tensor
    """As the keys."""

    key_scales: Tensor | None = None
    """(layers, B, heads, head_dim), where keys are int8: the number that each channel's 1 stands for. Else None."""

    value_scales: Tensor | None = None
    """The same of the values."""

    rows: Tensor | None = None
    """(B,) indices of the batch's images among those of the other tensors, if these hold more, such as a whole store.
    None where they hold the batch."""

    def of_batch(self) -> "Features":
        """The features of the batch's images alone: a copy, if the tensors hold others too."""
        if self.rows is None:
            return self
        return Features(*(part if part is None else part[:, self.rows] for part in self[:4]))

    def of_layers(self, layers: int | slice) -> "Features":
        """Views of one layer, without the axis of the layers, or of some."""
        return Features(*(part if part is None else part[layers] for part in self[:4]), self.rows)

    def keys_and_values(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values as numbers of a type, int8 brought back to what it stands for."""
        return _numbers(self.keys, self.key_scales, dtype), _numbers(self.values, self.value_scales, dtype)


def _numbers(stored: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    return stored.to(dtype) if scales is None else stored * scales.unsqueeze(-2).to(dtype)


Inputs = tuple[Tensor | Features, ...]
"""What a model is called with: images, and the features of them where it reads any."""


def map_tensors(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """The same inputs with a function applied to each of their tensors."""
    return tree_map_only(Tensor, function, inputs)


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """All tensors of a model's inputs, in their order."""
    return [leaf for leaf in tree_leaves(inputs) if leaf is not None]
