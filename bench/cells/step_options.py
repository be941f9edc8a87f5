"""What a training step can do otherwise than the paper's: options that memory depends on, and how they are worded.

The defaults are the paper's and the official code's step (FPT+, Sec. IV-B1).
"""

from typing import Literal

from fptplus import InvalidInput
from fptplus.network.precision import Precision
from methods import PASSES, find_method
from methods.lora import TARGETS, LoRA

CellPrecision = Literal[Precision, "bf16_weights"]
"""Autocast with fp32 weights, or all weights and inputs in bf16 and no autocast."""

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
"""By name, with its default. CellConfig says what each is."""

LORA_OPTIONS = ("lora_rank", "lora_targets")
NO_STEP = STEP_OPTIONS | dict.fromkeys(LORA_OPTIONS)
"""Of a frozen pass, which takes no training step."""


def given_options(one: object) -> dict[str, int | float | str]:
    """The options of a cell or record that are not the default."""
    options = {name: getattr(one, name) for name in STEP_OPTIONS}
    return {name: value for name, value in options.items() if value not in (None, STEP_OPTIONS[name])}


def axes_in_words(one: object) -> str:
    """The axes of a cell or record, as `fp32, eager, none, adamw, zero_grad after_forward`."""
    always = (one.precision, one.attention, one.checkpointing, one.optimizer)
    return ", ".join(always) + shared_in_words(one) + lora_in_words(one)


def shared_in_words(one: object) -> str:
    """Options that any method may have and that are not the default, as `, clipping none`; empty if there are none."""
    given = given_options(one) | ({} if one.alloc_conf is None else {"alloc_conf": one.alloc_conf})
    return "".join(f", {name} {value}" for name, value in given.items() if name not in LORA_OPTIONS)


def lora_in_words(one: object) -> str:
    """LoRA's rank and targets where they are not the default, as `, lora_rank 8`; empty if they are."""
    return "".join(f", {name} {value}" for name, value in given_options(one).items() if name in LORA_OPTIONS)


def takes_lora_options(method: str) -> bool:
    """Whether rank and targets mean something to a method.

    Raises:
        InvalidInput: if there is no such method.
    """
    return isinstance(find_method(method), LoRA)


def options_for(method: str, axes: dict) -> dict:
    """Of axes asked for many methods, those that one takes: no LoRA without LoRA, no step in a frozen pass."""
    left_out = STEP_OPTIONS if method in PASSES else LORA_OPTIONS
    return axes if takes_lora_options(method) else {k: v for k, v in axes.items() if k not in left_out}


def ordered_targets(names: str) -> tuple[str, ...]:
    """The linear layers of a list with commas, in the order of methods.lora.TARGETS.

    Raises:
        InvalidInput: if one is not known or stands twice, or the fused layer is named beside its parts.
    """
    asked = [name.strip() for name in names.split(",")]
    ordered = tuple(name for name in TARGETS if name in asked)
    if len(ordered) != len(asked):
        raise InvalidInput(f"lora-targets must be some of {', '.join(TARGETS)}, each once, got {names!r}.")
    if "qkv" in ordered and not {"query", "key", "value"}.isdisjoint(ordered):
        raise InvalidInput(f"lora-targets must name qkv or its parts query, key and value, got both in {names!r}.")
    return ordered
