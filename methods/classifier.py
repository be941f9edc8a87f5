"""Classify images with a trained checkpoint.

classifier = load_classifier("runs/messidor2/lr0.001-wd0.1-seed0/best.safetensors", weights="vit_b.safetensors")
classifier.predict("eye.png")      # {"healthy": 0.93, ...}

A file, a Pillow image and an array are all decoded as they are in training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from fptplus.data.augment import filter_of_storing, normalize, plain_views, render
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
    """A trained method with everything it needs to read an image."""

    model: nn.Module
    preloader: nn.Module | None
    """The frozen large pre-trained model (LPM), for methods that read features; None otherwise."""

    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    res: int
    """Height and width in pixels of the LPM's images."""

    image_res: int
    """Height and width in pixels at which training stores images."""

    input_res: int
    """Height and width in pixels of the images that the model takes, with or without features alongside."""

    device: str
    greys: GreyScale = EACH_BY_ITSELF
    """Which values of deep grey images became black and white in training."""

    views_as_once: bool = True
    """Whether images look as if they had been resampled once, see `fptplus.data.augment`; not in earlier versions."""

    decoding: int = DECODING
    """Version of the decoding of image files in training."""

    @torch.no_grad()
    def probabilities(self, images: Sequence[ImageSource]) -> Tensor:
        """Return the probabilities (N, classes) of N images of any size, on the CPU."""
        return self.model(*self.inputs(images)).float().softmax(dim=1).cpu()

    @torch.no_grad()
    def inputs(self, images: Sequence[ImageSource]) -> Inputs:
        """Return what the model is called with: images, and the LPM's features of them if it reads any."""
        images = [self.decode(image) for image in images]
        seen = self._seen(images, self.image_res, self.input_res)
        return (seen,) if self.preloader is None else (seen, self.preloader(self.lpm_images(images)))

    def lpm_images(self, images: Sequence[ImageSource]) -> Tensor:
        """Return the images (N, 3, res, res) as the LPM sees them."""
        return self._seen([self.decode(image) for image in images], self.res, self.res)

    def decode(self, image: ImageSource) -> Image.Image:
        """Decode an image as training did before resizing: to 8-bit RGB, deep greys by the training data's rule.

        A deep image of a kind for which the rule has no range is scaled by its own values, as in stores of earlier
        versions. This is logged, and so is an image that exceeds the range, or is one frame of several.
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
        """Return the probability of each class.

        Args:
            image: a file (`path#frame` for one of several frames), a Pillow image, or an array: (H, W) grey of any
                depth or (H, W, 3) RGB in uint8.

        Raises:
            InvalidInput: if it cannot be decoded.
        """
        return dict(zip(self.classes, self.probabilities([image])[0].tolist(), strict=True))

    def _seen(self, images: Sequence[Image.Image], kept_res: int, res: int) -> Tensor:
        """Return RGB images as training sees them: made square, then resized, then normalised."""
        squares = torch.stack([to_square(image, kept_res) for image in images]).to(self.device)
        views = plain_views(len(images))
        if self.views_as_once:
            sizes = torch.tensor([image.size for image in images], dtype=torch.float32)
            views = replace(views, filtered=filter_of_storing(sizes, kept_res))
        return normalize(render(squares, views, res), self.mean, self.std)


def load_classifier(path: str | Path, *, weights: str | None = None, device: str = "cpu") -> Classifier:
    """Load the classifier of a checkpoint that training has written.

    Args:
        path: `best.safetensors` of a run.
        weights: the LPM's checkpoint file or timm pretrained name; by default the one named in the checkpoint.
        device: the device to run on.

    Raises:
        InvalidInput: if the checkpoint or the weights are unreadable, or the LPM is not the one used in training.
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
        views_as_once=info.augmentation is not None,
        greys=info.greys,
    )


def build_as_trained(info: CheckpointInfo, *, weights: str | None = None, with_lpm: bool = False) -> FineTuning:
    """Build what a checkpoint was trained as, before its weights are loaded.

    Args:
        info: the checkpoint's metadata.
        weights: the LPM's checkpoint file or timm pretrained name; by default the one named in the checkpoint.
        with_lpm: see build_for_training.

    Raises:
        InvalidInput: if the weights are unreadable or not the right ones.
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
        backbone_sha256=info.backbone_sha256,
    )


def _check_lpm(vit: nn.Module, info: CheckpointInfo) -> None:
    """Check that features of new images come from the LPM that made the features for training."""
    if info.weights_sha256 and lpm_sha256(vit) != info.weights_sha256:
        raise InvalidInput(
            f"weights must be those of the {info.model} that the checkpoint was trained on "
            f"(SHA-256 {info.weights_sha256[:12]}…), these are others; name its file."
        )
