"""Choose by name which parameters of a ViT are trained."""

from collections.abc import Callable

from torch import nn


def train_only(model: nn.Module, chosen: Callable[[str], bool]) -> None:
    """Give a gradient to the task head and to the parameters with chosen names, and to no others."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("head.") or chosen(name)
