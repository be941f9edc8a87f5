"""The device that the option `--device` selects."""

from typing import Literal

import torch

from fptplus.errors import InvalidInput

DeviceName = Literal["auto", "cpu", "cuda"]


def resolve_device(name: DeviceName) -> str:
    """Return `cuda` or `cpu`; `auto` is `cuda` if there is a CUDA device.

    Raises:
        InvalidInput: if `cuda` is asked for and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise InvalidInput("device must be auto or cpu on a machine without a CUDA device, got cuda.")
    return "cuda" if has_cuda and name != "cpu" else "cpu"
