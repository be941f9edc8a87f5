"""`python -m fptplus visualize`: what FPT and FPT+ look at, from a trained checkpoint (Fig. 6 and 9)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tyro.conf import UseAppendAction

from fptplus.data.images import split_frame
from fptplus.errors import InvalidInput
from fptplus.output_folder import check_output_folder
from fptplus.token_figures import attention_on_prompts, draw_attention_on_prompts, draw_tokens, view_tokens
from fptplus.training.checkpoint import CheckpointInfo
from methods import find_method
from methods.classifier import load_classifier

from .device import DeviceName, resolve_device
from .plain_console import plain_console


@dataclass(frozen=True, kw_only=True)
class VisualizeConfig:
    """Draw which tokens are selected on images, the prompts' attention, and how much attention each layer gives them.

    Example: --checkpoint runs/x/lr0.001-wd0.1-seed0/best.safetensors --image eye.png --head 3 --out figures
    """

    checkpoint: Path
    """Checkpoint of a run of FPT or FPT+, best.safetensors."""

    image: UseAppendAction[tuple[Path, ...]] = ()
    """Image file to look at; at least one is needed."""

    layer: int | None = None
    """Layer of the frozen large pre-trained model (LPM), counted from 1. Default: the top one."""

    head: UseAppendAction[tuple[int, ...]] = ()
    """Attention head of the LPM, counted from 0. Default: 0."""

    weights: str | None = None
    """Weights of the LPM: a checkpoint file, a timm pretrained name or a name at Hugging Face. Default: those
    that the checkpoint names."""

    out: Path = Path("figures")
    """Folder for the figures, as PNG and SVG."""

    device: DeviceName = "auto"
    """Device to run on. auto: the CUDA device if there is one, else the CPU."""


def main(config: VisualizeConfig) -> int:
    """Draw Fig. 9 for each image and head, and Fig. 6 over all images."""
    if not config.image:
        raise InvalidInput("image must be given at least once, got none; name a file with --image.")
    check_output_folder(config.out)
    method = CheckpointInfo.read(config.checkpoint).method
    if not find_method(method).reads_features:
        raise InvalidInput(f"checkpoint must be of a method with fine-grained prompts, fpt or fptplus, got {method}.")
    device, console = resolve_device(config.device), plain_console()
    classifier = load_classifier(config.checkpoint, weights=config.weights, device=device)
    backbone, trained = classifier.preloader, classifier.model
    layer = backbone.tapped_layers[-1] if config.layer is None else config.layer - 1
    images = [classifier.decode(path) for path in config.image]
    names = figure_names(config.image)
    for path, name_of_image, image in zip(config.image, names, images, strict=True):
        for head in config.head or (0,):
            view = view_tokens(backbone, trained, classifier.lpm_images([image]), layer=layer, head=head)
            name = f"tokens_{name_of_image}_layer{layer + 1}_head{head}"
            draw_tokens(config.out / name, image, view, f"{path.name}: layer {layer + 1}, head {head}")
    shares = torch.stack([attention_on_prompts(trained, *classifier.inputs([image])) for image in images]).mean(dim=0)
    title = f"Attention on the prompts, mean over {len(images)} image{'s' if len(images) > 1 else ''}"
    first_layer = backbone.tapped_layers[0] + 1
    draw_attention_on_prompts(config.out / "attention_on_prompts", shares.tolist(), first_layer, title)
    console.print(f"figures in {config.out}", highlight=False)
    return 0


def figure_names(images: Sequence[Path]) -> list[str]:
    """A name for each image: its file's stem and frame, and a number where others before it have the same."""
    names, seen = [], Counter()
    for path in images:
        file, frame = split_frame(path)
        name = file.stem if frame is None else f"{file.stem}_frame{frame}"
        while name in seen:
            seen[name] += 1
            name = f"{name}-{seen[name]}"
        seen[name] += 1
        names.append(name)
    return names
