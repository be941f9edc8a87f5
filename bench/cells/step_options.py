"""Options of a training step that deviate from the paper's and change its memory, and how they are worded.

The defaults are the step of the paper and the official code (FPT+, Sec. IV-B1).
"""

from typing import Literal

from fptplus import InvalidInput
from fptplus.network.precision import Precision
from methods import PASSES, find_method
from methods.lora import TARGETS, LoRA

CellPrecision = Literal[Precision, "bf16_weights"]
"""Autocast with fp32 weights, or all weights and inputs in bf16 without autocast."""

Clipping = Literal["norm", "none"]
Averaging = Literal["none", "ema"]

STEP_OPTIONS: dict[str, int | float | str] = {
    "zero_grad": "before_forward",
    "accumulation_steps": 1,
    "clipping": "norm",
    "drop_path": 0.0,
    "averaging": "none",
    "lora_rank": LoRA.rank,
    "lora_targets": ",".join(LoRA.targets),
}
"""Default of each option, by name. CellConfig describes them."""

LORA_OPTIONS = ("lora_rank", "lora_targets")
NO_STEP = STEP_OPTIONS | dict.fromkeys(LORA_OPTIONS)
"""Option values of a frozen pass, which takes no training step."""


def given_options(one: object) -> dict[str, int | float | str]:
    """Return the options of a cell or record that are not the default."""
    options = {name: getattr(one, name) for name in STEP_OPTIONS}
    return {name: value for name, value in options.items() if value not in (None, STEP_OPTIONS[name])}


def axes_in_words(one: object) -> str:
    """Return the axes of a cell or record, as `fp32, eager, none, adamw, zero_grad after_forward`."""
    always = (one.precision, one.attention, one.checkpointing, one.optimizer)
    return ", ".join(always) + shared_in_words(one) + lora_in_words(one)


def shared_in_words(one: object) -> str:
    """Return the options for any method that are not the default, as `, clipping none`; empty if there are none."""
    given = given_options(one) | ({} if one.alloc_conf is None else {"alloc_conf": one.alloc_conf})
    return "".join(f", {name} {value}" for name, value in given.items() if name not in LORA_OPTIONS)


def lora_in_words(one: object) -> str:
    """Return LoRA's rank and targets if they are not the default, as `, lora_rank 8`; empty if they are."""
    return "".join(f", {name} {value}" for name, value in given_options(one).items() if name in LORA_OPTIONS)


def takes_lora_options(method: str) -> bool:
    """Whether a method has a LoRA rank and LoRA targets.

    Raises:
        InvalidInput: if there is no such method.
    """
    return isinstance(find_method(method), LoRA)


def options_for(method: str, axes: dict) -> dict:
    """Return those of the given axes that a method takes: no LoRA without LoRA, no step in a frozen pass."""
    left_out = STEP_OPTIONS if method in PASSES else LORA_OPTIONS
    return axes if takes_lora_options(method) else {k: v for k, v in axes.items() if k not in left_out}


def ordered_targets(names: str) -> tuple[str, ...]:
    """Return the linear layers of a comma-separated list, in the order of methods.lora.TARGETS.

    Raises:
        InvalidInput: if one is unknown or listed twice, or the fused layer is listed alongside its parts.
    """
    asked = [name.strip() for name in names.split(",")]
    ordered = tuple(name for name in TARGETS if name in asked)
    if len(ordered) != len(asked):
        raise InvalidInput(f"lora-targets must be some of {', '.join(TARGETS)}, each once, got {names!r}.")
    if "qkv" in ordered and not {"query", "key", "value"}.isdisjoint(ordered):
        raise InvalidInput(f"lora-targets must name qkv or its parts query, key and value, got both in {names!r}.")
    return ordered
