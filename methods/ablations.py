"""FPT+ with one hyperparameter changed (FPT+, Tables IV to VI, Figures 5 and 8)."""

from collections.abc import Iterator
from dataclasses import replace

from fptplus import FPTConfig

from .fpt import FineGrainedPrompts

VALUES: dict[str, tuple[str, tuple[float, ...]]] = {
    "side": ("side_res", (64, 128, 256, 512)),
    "prompts": ("num_prompts", (4, 8, 16, 32, 64, 128)),
    "k": ("reduction_factor", (2, 4, 8, 16)),
    "layers": ("tapped_share", (1, 2, 3, 4, 6, 9, 12)),
    "ratio": ("token_ratio", (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)),
}
"""Field of FPTConfig and values to try, by the short name of a hyperparameter."""

VIT_B_DEPTH = 12
"""Number of blocks of ViT-B, for which `layers` counts side layers; another large pre-trained model (LPM) gets the same
share of its blocks."""


def ablation_name(fptplus: FineGrainedPrompts, short: str, value: float) -> str:
    """Return the name of FPT+ with one value changed, such as `fptplus_side64`; `fptplus` if the value is its own."""
    return "fptplus" if _changed(fptplus, short, value) == fptplus.config else f"fptplus_{short}{value}"


def fptplus_ablations(fptplus: FineGrainedPrompts) -> Iterator[tuple[str, FineGrainedPrompts]]:
    """Yield every such variant with its name."""
    for short, (_, values) in VALUES.items():
        for value in values:
            if (name := ablation_name(fptplus, short, value)) != "fptplus":
                yield name, replace(fptplus, config=_changed(fptplus, short, value), title=f"FPT+, {short} {value}")


def _changed(fptplus: FineGrainedPrompts, short: str, value: float) -> FPTConfig:
    field = VALUES[short][0]
    return replace(fptplus.config, **{field: value / VIT_B_DEPTH if short == "layers" else value})
