"""A trained checkpoint as a classifier of images.

classifier = load_classifier("runs/messidor2/lr0.001-wd0.1-seed0/best.safetensors", weights="vit_b.safetensors")
classifier.predict("eye.png")      # {"healthy": 0.93, ...}

A file, a Pillow image and an array are decoded in one way, the one of training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from fptplus.data.augment import normalize, plain_views, render
from fptplus.data.greys import EACH_BY_ITSELF, GreyImage, GreyScale
from fptplus.data.images import DECODING, ImageSource, count_frames, decode, is_dicom_file, split_frame, to_rgb
from fptplus.errors import InvalidInput
from fptplus.network.features import Inputs
from fptplus.store.preloading import to_square
from fptplus.training.checkpoint import CheckpointInfo, load_learnable, lpm_sha256
from fptplus.training.fine_tuning import FineTuning

from . import find_method
from .method import build_for_training, log_once


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained method with all that it needs to read an image."""

    model: nn.Module
    preloader: nn.Module | None
    """The frozen LPM, for methods that read features; None otherwise."""

    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    res: int
    """Height and width in pixels of the LPM's images."""

    image_res: int
    """Height and width in pixels that images are kept at in training."""

    input_res: int
    """Height and width in pixels of the images that the model takes, features or none alongside."""

    device: str
    greys: GreyScale = EACH_BY_ITSELF
    """What values of deep grey images were black and white in training."""

    decoding: int = DECODING
    """Version by which training decoded its files."""

    @torch.no_grad()
    def probabilities(self, images: Sequence[ImageSource]) -> Tensor:
        """(N, classes) probabilities of N images of any size, on the CPU."""
        return self.model(*self.inputs(images)).float().softmax(dim=1).cpu()

    @torch.no_grad()
    def inputs(self, images: Sequence[ImageSource]) -> Inputs:
        """What the model is called with: images, and the LPM's features of them where it reads any."""
        images = [self.decode(image) for image in images]
        seen = self._seen(images, self.image_res, self.input_res)
        return (seen,) if self.preloader is None else (seen, self.preloader(self.lpm_images(images)))

    def lpm_images(self, images: Sequence[ImageSource]) -> Tensor:
        """(N, 3, res, res) images as the LPM sees them."""
        return self._seen([self.decode(image) for image in images], self.res, self.res)

    def decode(self, image: ImageSource) -> Image.Image:
        """An image as training saw it before it was resized: RGB in 8 bits, deep greys by the training data's rule.

        A deep image of a kind that the rule has no range for is scaled by itself, as stores of earlier versions did;
        that is logged, and so is an image that lies outside the range, or is one frame of several.
        """
        if (frames := count_frames(image)) > 1:
            which = "the one that it stands at" if isinstance(image, Image.Image) else "the middle one"
            log_once(f"of {frames} frames {which} is read; name another as path#frame, counted from 1")
        if self.decoding < DECODING and isinstance(image, str | Path) and is_dicom_file(split_frame(Path(image))[0]):
            log_once(
                "the checkpoint is of an earlier version, which took padding, tables and windows of DICOM otherwise; "
                "preload and train again"
            )
        decoded = decode(image)
        if isinstance(decoded, GreyImage):
            for note in decoded.doubts(self.greys):
                log_once(note)
        return to_rgb(decoded, self.greys)

    def predict(self, image: ImageSource) -> dict[str, float]:
        """The probability of each class.

        Args:
            image: a file (`path#frame` for one of several frames), a Pillow image, or an array: (H, W) grey of any
                depth or (H, W, 3) RGB in uint8.

        Raises:
            InvalidInput: if it cannot be decoded.
        """
        return dict(zip(self.classes, self.probabilities([image])[0].tolist(), strict=True))

    def _seen(self, images: Sequence[Image.Image], kept_res: int, res: int) -> Tensor:
        """RGB images as training saw them: made square, then resized, then normalised."""
        squares = torch.stack([to_square(image, kept_res) for image in images]).to(self.device)
        return normalize(render(squares, plain_views(len(images)), res), self.mean, self.std)


def load_classifier(path: str | Path, *, weights: str | None = None, device: str = "cpu") -> Classifier:
    """The classifier of a checkpoint that training has written.

    Args:
        path: `best.safetensors` of a run.
        weights: the LPM's checkpoint file or timm pretrained name; default the one named in the checkpoint.
        device: to run on.

    Raises:
        InvalidInput: if the checkpoint or the weights are unreadable, or the LPM is another than in training.
    """
    info = CheckpointInfo.read(Path(path))
    tuning = build_as_trained(info, weights=weights, with_lpm=True)
    if tuning.preloader is not None:
        _check_lpm(tuning.preloader.vit, info)
    load_learnable(tuning.model, Path(path))
    return Classifier(
        model=tuning.model.to(device).eval(),
        preloader=tuning.preloader.to(device) if tuning.preloader is not None else None,
        classes=info.classes,
        mean=info.mean,
        std=info.std,
        res=info.res,
        image_res=info.image_res,
        input_res=find_method(info.method).input_res(info.res),
        device=device,
        decoding=info.decoding,
        greys=info.greys,
    )


def build_as_trained(info: CheckpointInfo, *, weights: str | None = None, with_lpm: bool = False) -> FineTuning:
    """What a checkpoint was trained as, before its weights are loaded.

    Args:
        info: the checkpoint's.
        weights: the LPM's checkpoint file or timm pretrained name; default the one named in the checkpoint.
        with_lpm: as build_for_training takes it.

    Raises:
        InvalidInput: if the weights are not what they must be.
    """
    return build_for_training(
        find_method(info.method),
        info.model,
        info.res,
        len(info.classes),
        weights=weights or info.weights,
        seed=info.training.seed,
        attention=info.attention,
        with_lpm=with_lpm,
    )


def _check_lpm(vit: nn.Module, info: CheckpointInfo) -> None:
    """See that features of new images come from the LPM that made the training's."""
    if info.weights_sha256 and lpm_sha256(vit) != info.weights_sha256:
        raise InvalidInput(
            f"weights must be those of the {info.model} that the checkpoint was trained on "
            f"(SHA-256 {info.weights_sha256[:12]}…), these are others; name its file."
        )
