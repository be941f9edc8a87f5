"""What identifies a cell: every field of its configuration. Some fields belong to the machine, some are sizes.

Records, sweeps, `compare`, `validate`, `campaign` and the paper's evidence distinguish cells by these fields alone.
"""

from collections.abc import Collection
from dataclasses import fields

from bench.units import GIB

from .config import CellConfig
from .step_options import axes_in_words

IDENTITY: tuple[str, ...] = tuple(field.name for field in fields(CellConfig))
"""Names of the identifying fields; a record has a column for each."""

MACHINE = ("gpu", "device")
"""Fields for the card that memory is predicted for and the device that the cell was measured on."""

SIZE = ("res", "batch_size")

_SAID_IF_GIVEN = ("num_classes", "seed", "weights", "epochs", "epoch_images")
_DEFAULTS = {field.name: field.default for field in fields(CellConfig)}


def identity_of(one: object, *, without: Collection[str] = ()) -> tuple:
    """Return what identifies a cell, from the cell or from its record, in the order of IDENTITY.

    Args:
        one: the cell or record. Their `device` differs: a cell names the kind of device to measure on, a record the
            processor that it was measured on. Leave it out to compare one with the other.
        without: fields that may differ.

    Returns:
        The values. 0 becomes None, so that "no epochs" is the same in both.
    """
    return tuple(getattr(one, name) or None for name in IDENTITY if name not in without)


def identity_in_words(one: object) -> str:
    """Describe a cell or record without its machine.

    For example `lora vit_b, 512 px, batch 16, fp32, eager, none, adamw, seed 1`.
    """
    return f"{one.method} {one.model}, {one.res} px, batch {one.batch_size}, {choices_in_words(one)}"


def choices_in_words(one: object) -> str:
    """Return the same without method, model and sizes: the axes, and everything else that is not the default."""
    values = {name: getattr(one, name) for name in _SAID_IF_GIVEN}
    further = [f", {name} {value}" for name, value in values.items() if value and value != _DEFAULTS[name]]
    memory = f", {one.vram_bytes / GIB:.4g} GiB of memory" if one.vram_bytes else ""
    return axes_in_words(one) + "".join(further) + memory
