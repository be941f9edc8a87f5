"""What the fusion modules read from the frozen large pre-trained model (LPM): keys and values of important tokens."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


class Features(NamedTuple):
    """Keys K_M and values V_M of the tapped layers (FPT+, Eq. 8), as the LPM returns them or a store keeps them.

    It is a tuple of tensors, so that code which moves, traces or distributes a model's inputs handles it unchanged.
    """

    keys: Tensor
    """Keys (layers, B, heads, n, head_dim), of any dtype."""

    values: Tensor
    """Values, of the same shape and dtype as the keys."""

    key_scales: Tensor | None = None
    """Scales (layers, B, heads, head_dim) of int8 keys: the number that 1 stands for in each channel; else None."""

    value_scales: Tensor | None = None
    """Scales of int8 values, of the same shape; else None."""

    rows: Tensor | None = None
    """Indices (B,) of the batch's images within the other tensors, if these hold more images, such as a whole store.
    None if they hold just the batch."""

    def of_batch(self) -> "Features":
        """Return the features of the batch's images alone: a copy if the tensors hold others too."""
        if self.rows is None:
            return self
        return Features(*(part if part is None else part[:, self.rows] for part in self[:4]))

    def of_layers(self, layers: int | slice) -> "Features":
        """Return views of one layer, without the layer axis, or of several layers."""
        return Features(*(part if part is None else part[layers] for part in self[:4]), self.rows)

    def keys_and_values(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return keys and values in a dtype; int8 numbers are multiplied by their scales."""
        return _numbers(self.keys, self.key_scales, dtype), _numbers(self.values, self.value_scales, dtype)


def _numbers(stored: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    return stored.to(dtype) if scales is None else stored * scales.unsqueeze(-2).to(dtype)


Inputs = tuple[Tensor | Features, ...]
"""What a model is called with: images, and their features if it reads any."""


def map_tensors(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Return the inputs with a function applied to each of their tensors."""
    return tree_map_only(Tensor, function, inputs)


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """Return all tensors of a model's inputs, in order."""
    return [leaf for leaf in tree_leaves(inputs) if leaf is not None]
