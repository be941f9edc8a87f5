"""`python -m fptplus pretrain`: a large pre-trained model (LPM) for the synthetic task, without published weights."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from fptplus.errors import InvalidInput
from fptplus.output_folder import check_output_folder
from fptplus.synthetic.pretext import PretextConfig, train_pretext
from fptplus.whole_file import whole_file
from methods import create_backbone
from methods.backbone import published_normalization

from .plain_console import plain_console
from .progress_bar import progress_bar


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(PretextConfig):
    """Train a small Vision Transformer (ViT) from random weights to recognise what each patch of an image holds.

    Images are generated, with maps of vessels, disc, drusen and microaneurysms. That is supervision, but never with an
    image's class.

    Example: --out weights/fundus.safetensors
    """

    out: Path
    """New checkpoint file to write, a .safetensors file with timm's parameter names."""

    model: str = "test_vit3"
    """ViT in timm; the default has 0.9 million parameters."""


def main(config: PretrainConfig) -> int:
    """Train, write the checkpoint, and print how well each structure is recognised."""
    if config.out.suffix != ".safetensors":
        raise InvalidInput(f"out must be a .safetensors file, got {config.out}.")
    if config.out.exists():
        raise InvalidInput(f"out must name a new file, {config.out} is there already; name another.")
    check_output_folder(config.out.parent)
    torch.manual_seed(config.seed)
    vit = create_backbone(config.model, config.crop_res, 1, attention="sdpa")
    with progress_bar("pretrain") as on_progress:
        auc = train_pretext(vit, published_normalization(config.model), config, on_progress)
    _save(vit, config.out)
    scores = ", ".join(f"{name} {value:.3f}" for name, value in auc.items())
    plain_console().print(
        f"{config.model} in {config.out}; AUC of patches by structure: {scores}", highlight=False, soft_wrap=True
    )
    return 0


def _save(vit: torch.nn.Module, out: Path) -> None:
    """Write the weights except for the unused head, the file complete or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor for name, tensor in vit.state_dict().items() if not name.startswith("head.")}
    with whole_file(out) as beside:
        save_file(weights, beside)
