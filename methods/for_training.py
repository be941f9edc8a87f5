"""A method's model with real weights, ready for real training; benchmarks build theirs from a cell instead."""

from collections.abc import Mapping

import torch

from . import find_method
from .adalora import AdaLoRA
from .backbone import AttentionMode, Checkpointing, create_backbone
from .fpt import FineGrainedPrompts
from .method import FineTuning


def reads_features(method: str) -> bool:
    """Whether a method trains on preloaded features beside images.

    Raises:
        InvalidInput: if there is no such method.
    """
    found = find_method(method)
    return isinstance(found, FineGrainedPrompts) and not found.live


def input_res(method: str, res: int) -> int:
    """Height and width in pixels of the images that a method's model takes, where the LPM's are of `res`."""
    return find_method(method).config.side_res if reads_features(method) else res


def build_for_training(
    method: str,
    model: str,
    res: int,
    num_classes: int,
    *,
    weights: str | None,
    seed: int,
    total_steps: int,
    attention: AttentionMode = "sdpa",
    checkpointing: Checkpointing = "none",
    with_lpm: bool = False,
) -> FineTuning:
    """Build a method over a model on the CPU.

    Args:
        method, model, res, num_classes, attention, checkpointing: as of a cell.
        weights: of the LPM, as of create_backbone; None for random ones.
        seed: of all random weights.
        total_steps: of the training; AdaLoRA's rank budget follows it.
        with_lpm: whether a method that trains on preloaded features gets its LPM's weights all the same, to make
            features of new images.

    Raises:
        InvalidInput: if the method, model, resolution or weights are not what they must be.
    """
    found = find_method(method)
    if isinstance(found, AdaLoRA):
        found = found.scheduled_for(total_steps)
    needs_lpm = with_lpm or not reads_features(method)
    torch.manual_seed(seed)
    with torch.device("cpu" if needs_lpm else "meta"):
        vit = create_backbone(
            model, res, num_classes, attention=attention, checkpointing=checkpointing, weights=weights
        )
    torch.manual_seed(seed)  # the trained part is the same whether or not the LPM has drawn its weights
    return found.build(vit, res)


def build_as_trained(
    facts: Mapping[str, str], num_classes: int, *, weights: str | None, with_lpm: bool = False
) -> FineTuning:
    """What a checkpoint was trained as, before its weights are loaded.

    Args:
        facts: of the checkpoint, as of fptplus.training.checkpoint.read_checkpoint_facts.
        num_classes: of its task.
        weights: of the LPM; default those the checkpoint names.
        with_lpm: as of build_for_training.

    Raises:
        InvalidInput: if the weights are not what they must be.
    """
    return build_for_training(
        facts["method"],
        facts["model"],
        int(facts["res"]),
        num_classes,
        weights=weights or facts["weights"] or None,
        seed=int(facts["seed"]),
        total_steps=1,
        attention=facts["attention"],
        with_lpm=with_lpm,
    )
