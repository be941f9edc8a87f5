"""How threads wait for each other where other processes want the same processors.

OpenMP's threads spin while they wait, which is fastest on an idle machine. On a busy one they spin in the turns that
the thread they wait for does not get. A step of FPT+ (ViT-B, 512 px, batch 4) on 2 processors that 13 threads wanted
took 3,520 ms with spinning and 320 ms without; undisturbed, 43 and 61 ms, so that this is not the rule everywhere. Full
fine-tuning (ViT-S, 224 px, batch 4), whose operators are larger, took 821 and 856 ms undisturbed.
"""

import os
import sys
from collections.abc import Mapping

import psutil

BUSY_SHARE = 0.25
"""Share of all processors' time above which a machine is busy."""

SAMPLE_S = 0.2
"""Time over which that is measured."""

_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_without_spinning_if_busy() -> str | None:
    """Set OpenMP's wait policy for this process before PyTorch is imported, if others keep the machine busy.

    Returns:
        What has been set and why, in words; None if nothing.
    """
    if "torch" in sys.modules or not leaves_it_to_us(os.environ):  # it is too late, or the user has decided
        return None
    busy_share = psutil.cpu_percent(interval=SAMPLE_S) / 100
    if busy_share <= BUSY_SHARE:
        return None
    os.environ["OMP_WAIT_POLICY"] = "passive"
    return (
        f"other processes use {busy_share:.0%} of the processors, so threads wait without spinning "
        "(OMP_WAIT_POLICY=passive)"
    )


def leaves_it_to_us(environment: Mapping[str, str]) -> bool:
    """Whether no variable says how threads wait."""
    return not any(name in environment for name in _SETTINGS)
