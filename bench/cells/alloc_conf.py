"""PyTorch's allocator settings (docs.pytorch.org, CUDA semantics, "Optimizing memory usage"): asked for, or found."""

import os
import re
from collections.abc import Mapping

from fptplus import InvalidInput

VARIABLE = "PYTORCH_ALLOC_CONF"
"""Read by PyTorch 2.9 and later."""

OLDER_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"
"""Its older name, which PyTorch reads first where both are set (c10/cuda/CUDAAllocatorConfig.h)."""

_SETTING = r"\s*\w+\s*:\s*(\[[^\[\]]*\]|[^\s,:\[\]]+)\s*"


def check(settings: str) -> None:
    """Refuse what PyTorch could not read as `name:value,name:value`; which names there are only PyTorch knows.

    Raises:
        InvalidInput: if it is no such list.
    """
    if not re.fullmatch(f"{_SETTING}(,{_SETTING})*", settings):
        raise InvalidInput(
            f"alloc-conf must be settings such as expandable_segments:True or max_split_size_mb:128, with commas "
            f"between them, got {settings!r}."
        )


def in_force(asked: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The settings of a process that is started for a cell: those asked for, else the environment's; None if none."""
    return asked or environment.get(OLDER_VARIABLE) or environment.get(VARIABLE) or None


def without_settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """An environment in which PyTorch's defaults apply."""
    return {name: value for name, value in environment.items() if name not in (VARIABLE, OLDER_VARIABLE)}


def process_environment(asked: str | None, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of such a process: only one of the two variables, so that all versions of PyTorch agree."""
    settings = in_force(asked, environment)
    return without_settings(environment) | ({} if settings is None else {VARIABLE: settings})


def remark(asked: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """What to warn of: settings of the environment that nobody asked for on the command line; None if there are none.

    The sentence names the variable and the cure.
    """
    if asked is not None or (found := in_force(None, environment)) is None:
        return None
    name = OLDER_VARIABLE if environment.get(OLDER_VARIABLE) else VARIABLE
    return (
        f"warning: {name} is set to {found!r} and changes what is measured, as the records say, but nothing that is "
        "predicted; unset it, or name the settings with --alloc-conf."
    )
