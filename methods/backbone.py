"""The shared backbone: the one place that creates a timm ViT, at any resolution the patch size divides."""

import re
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Literal

import timm
import torch
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import fptplus
from fptplus import InvalidInput
from fptplus.network.checkpoint_file import HUGGING_FACE_FILES
from fptplus.network.weights import HUGGING_FACE_EPS, set_layer_norm_eps

MODELS: dict[str, str] = {
    "vit_s": "vit_small_patch16_384",
    "vit_b": "vit_base_patch16_384",
    "vit_l": "vit_large_patch16_384",
}
"""timm's names by short name: ViT/16 published with 384-px position embeddings, which the paper's counts imply."""

PUBLISHED_WEIGHTS: dict[str, str] = {
    "google/vit-base-patch16-384": "vit_base_patch16_384.orig_in21k_ft_in1k",
    "facebook/dino-vitb16": "vit_base_patch16_224.dino",
}
"""Weights of the paper by their names at Hugging Face, and the same in timm. It lacks those of ViT-L,
google/vit-large-patch16-384, which come from Hugging Face itself."""

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""Names of models at Hugging Face."""

_CHECKPOINT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")

AttentionMode = Literal["eager", "sdpa", "flash", "efficient"]
Checkpointing = Literal["none", "block"]


def create_backbone(
    model: str,
    res: int,
    num_classes: int,
    *,
    attention: AttentionMode = "eager",
    checkpointing: Checkpointing = "none",
    drop_path: float = 0.0,
    weights: str | None = None,
) -> VisionTransformer:
    """Create a timm ViT for one task, on the current default device, in training mode.

    Args:
        model: a short name in MODELS or any name that timm knows.
        res: image height and width in pixels; position embeddings are sized to match.
        num_classes: outputs of the new head.
        attention: `eager` for explicit score matrices, any other value for fused kernels.
        checkpointing: `block` to recompute every block in the backward pass.
        drop_path: probability that the last block is skipped in training; it falls to 0 at the first.
        weights: a checkpoint file (timm or Hugging Face), a timm pretrained name or the name of a ViT at Hugging
            Face, such as the paper's; on the meta device only checked. None for random weights.

    Raises:
        InvalidInput: if the name is unknown, the model is not a plain ViT, its patch size does not divide `res`, or the
            weights are unreadable or of another shape.
    """
    vit = _create(model, img_size=res, num_classes=num_classes, drop_path_rate=drop_path)
    if weights is not None:
        fptplus.load_vit(vit, _read_weights(weights))
        if weights in PUBLISHED_WEIGHTS:
            set_layer_norm_eps(vit, HUGGING_FACE_EPS)
    for block in vit.blocks:
        block.attn.fused_attn = attention != "eager"
        if checkpointing == "block":
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    return vit.train()


def _timm_name(model: str) -> str:
    """Return a model's name in timm; refuse one that timm does not know."""
    name = MODELS.get(model, model)
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models("vit_*") + list(MODELS), n=3)
        raise InvalidInput(
            f"model must be one of {', '.join(MODELS)} or a ViT that timm knows, got {model!r}"
            + (f"; did you mean {' or '.join(near)}?" if near else "; timm.list_models('vit_*') lists them.")
        )
    return name


def published_normalization(model: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of the colour channels, in 0 to 1, that a model was pre-trained with.

    Raises:
        InvalidInput: if timm does not know the model.
    """
    config = timm.get_pretrained_cfg(_timm_name(model))
    return tuple(config.mean), tuple(config.std)


def _create(model: str, **options) -> VisionTransformer:
    name = _timm_name(model)
    _check_resolution(model, options["img_size"])
    if torch.get_default_device().type == "meta":
        options["weight_init"] = "skip"  # there is no memory to initialise
    try:
        vit = timm.create_model(name, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise _not_driven(model, f"timm does not make it at {options['img_size']} px ({error})") from error
    if type(vit) is not VisionTransformer:
        raise _not_driven(model, f"it is a {type(vit).__name__}")
    if type(vit.patch_embed) is not PatchEmbed:
        raise _not_driven(model, f"its patch embedding is a {type(vit.patch_embed).__name__}")
    for block in vit.blocks:
        if type(block) is not Block or type(block.attn) is not Attention:
            attention = getattr(block, "attn", None)  # blocks of parallel ViTs have several
            inside = f" with {type(attention).__name__}" if attention is not None else ""
            raise _not_driven(model, f"its blocks are {type(block).__name__}{inside}")
    return vit


def _read_weights(weights: str) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, or of a model that timm downloads."""
    if Path(weights).exists():
        return fptplus.read_checkpoint(weights)
    weights = PUBLISHED_WEIGHTS.get(weights, weights)
    if _REPOSITORY.fullmatch(weights) and not weights.endswith(_CHECKPOINT_SUFFIXES):
        return _downloaded(weights)
    if not timm.models.is_model_pretrained(weights):
        raise InvalidInput(
            "weights must name a checkpoint file, a timm pretrained model or a model at Hugging Face "
            f"(organisation/name), got {weights!r}, which does not exist."
        )
    try:
        with torch.device("cpu"):
            return timm.create_model(weights, pretrained=True).state_dict()
    except Exception as error:  # of whatever carries the download: urllib, requests, httpx, huggingface_hub
        raise _not_downloaded("timm pretrained model", weights, error) from error


def _downloaded(repository: str) -> dict[str, Tensor]:
    """Read the tensors of a model at Hugging Face, from its cache if they are there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in HUGGING_FACE_FILES:
        try:
            return fptplus.read_checkpoint(hf_hub_download(repository, name))
        except InvalidInput:
            raise
        except Exception as error:  # of whatever carries the download
            is_last = name == HUGGING_FACE_FILES[-1]
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError) and not is_last:
                continue
            raise _not_downloaded("model at Hugging Face", repository, error) from error
    raise AssertionError


def _not_downloaded(kind: str, weights: str, error: Exception) -> InvalidInput:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InvalidInput(
        f"weights must be a checkpoint file, or a {kind} that can be downloaded, {weights} cannot be ({reason}); "
        "without a network pass its file."
    )


def patch_size_of(model: str) -> int:
    """Return the patch height and width in pixels of a model that timm knows."""
    name = MODELS.get(model, model)
    digits = name.partition("patch")[2].partition("_")[0]
    if digits.isdigit():
        return int(digits)  # nearly all of timm's ViT names contain it
    with torch.device("meta"):
        patch_embed = getattr(timm.create_model(name), "patch_embed", None)
    return getattr(patch_embed, "patch_size", (1,))[0]


def _check_resolution(model: str, res: int) -> None:
    """Refuse a resolution that would fail an assertion in timm."""
    patch_size = patch_size_of(model)
    if res < 1 or res % patch_size:
        below = max(patch_size, res - res % patch_size)
        raise InvalidInput(
            f"res must be a positive multiple of {model}'s patch size {patch_size}, got {res}; "
            f"try {below} or {below + patch_size}."
        )


def _not_driven(model: str, reason: str) -> InvalidInput:
    return InvalidInput(
        f"model must be a plain timm VisionTransformer, got {model!r}: {reason}; the methods drive no other kind."
    )


def uses_fused_attention(vit: VisionTransformer) -> bool:
    """Return whether the blocks call fused attention kernels."""
    return vit.blocks[0].attn.fused_attn


def uses_checkpointing(vit: VisionTransformer) -> bool:
    """Return whether the backward pass recomputes the blocks."""
    return isinstance(vit.blocks[0].forward, partial)


def token_count(vit: VisionTransformer) -> int:
    """Return N, the number of tokens in each block: patches, class token and registers."""
    return vit.patch_embed.num_patches + vit.num_prefix_tokens


def published_params(vit: VisionTransformer) -> int:
    """Count the parameters of the large pre-trained model (LPM) as published: its own position embeddings and head.

    This is how the paper counts a frozen LPM: the denominator of FPT+'s 1.03 % includes ViT-B/16's 1000-way ImageNet
    head and 384-px position embeddings.
    """
    config = vit.pretrained_cfg or {}
    total = sum(parameter.numel() for parameter in vit.parameters())
    if (classes := config.get("num_classes")) is not None and vit.num_classes:
        own_head = sum(parameter.numel() for parameter in vit.head.parameters())
        total += own_head // vit.num_classes * (classes - vit.num_classes)
    if (input_size := config.get("input_size")) is not None and vit.pos_embed is not None:
        patches = (input_size[-1] // vit.patch_embed.patch_size[0]) ** 2
        total += (patches - vit.patch_embed.num_patches) * vit.embed_dim
    return total
