"""Settings of PyTorch's allocator, asked for or found (docs.pytorch.org, CUDA semantics, "Optimizing memory usage")."""

import os
import re
from collections.abc import Mapping

from fptplus import InvalidInput

VARIABLE = "PYTORCH_ALLOC_CONF"
"""Environment variable that PyTorch 2.9 and later read."""

OLDER_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"
"""The variable's older name, which PyTorch reads first if both are set (c10/cuda/CUDAAllocatorConfig.h)."""

_SETTING = r"\s*\w+\s*:\s*(\[[^\[\]]*\]|[^\s,:\[\]]+)\s*"


def check(settings: str) -> None:
    """Refuse settings that PyTorch could not read as `name:value,name:value`; only PyTorch knows which names exist.

    Raises:
        InvalidInput: if the settings are not such a list.
    """
    if not re.fullmatch(f"{_SETTING}(,{_SETTING})*", settings):
        raise InvalidInput(
            f"alloc-conf must be settings such as expandable_segments:True or max_split_size_mb:128, with commas "
            f"between them, got {settings!r}."
        )


def in_force(asked: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the settings of a process started for a cell: those asked for, else the environment's; None if none."""
    return asked or environment.get(OLDER_VARIABLE) or environment.get(VARIABLE) or None


def without_settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return an environment in which PyTorch's defaults apply."""
    return {name: value for name, value in environment.items() if name not in (VARIABLE, OLDER_VARIABLE)}


def process_environment(asked: str | None, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of such a process.

    It sets only one of the two variables, so that all versions of PyTorch agree.
    """
    settings = in_force(asked, environment)
    return without_settings(environment) | ({} if settings is None else {VARIABLE: settings})


def remark(asked: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return a warning if the environment has settings that nobody asked for on the command line; else None.

    The sentence names the variable and the cure.
    """
    if asked is not None or (found := in_force(None, environment)) is None:
        return None
    name = OLDER_VARIABLE if environment.get(OLDER_VARIABLE) else VARIABLE
    return (
        f"warning: {name} is set to {found!r} and changes what is measured, as the records say, but nothing that is "
        "predicted; unset it, or name the settings with --alloc-conf."
    )
