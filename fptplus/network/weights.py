"""Checkpoints in three layouts: timm, Hugging Face ViT (the LPM) and the official FPT and FPT+ code (the side model).

Hugging Face and the official code keep query, key and value as three linear layers where timm has one fused `qkv`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from fptplus.errors import InvalidInput

from .fusion import FineGrainedFusion, ProjectedFusion
from .layer_kind import LayerKind
from .model import FineGrainedPromptTuning
from .side_network import SideNetwork

StateDict = dict[str, Tensor]

HUGGING_FACE_EPS = 1e-12
"""Of every LayerNorm of Hugging Face's ViT, and so of the official code's LPM; timm's have 1e-6."""

_EMBEDDINGS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "classifier": "head",
}
_BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_BLOCK_KEY = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")
_QKV = ("query", "key", "value")


def read_checkpoint(path: str | Path) -> StateDict:
    """Tensors of a .safetensors or torch file, on the CPU; a nested `state_dict` or `model` entry is unwrapped.

    Raises:
        InvalidInput: if the file is missing, truncated or no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"weights must name a checkpoint file, got {str(path)!r}, which does not exist.")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # torch.load lets pickle's own errors through
        if "pickle" not in type(error).__module__ + type(error).__name__.lower():
            raise
        raise _unreadable(path, error) from error
    for key in ("state_dict", "model"):
        state = state.get(key, state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InvalidInput(f"weights must hold a dictionary of tensors, {str(path)!r} does not; save a state_dict.")
    return dict(state)


def _unreadable(path: Path, error: Exception) -> InvalidInput:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InvalidInput(
        f"weights must be a readable checkpoint, {str(path)!r} is truncated or damaged ({reason}); copy it again."
    )


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are named as Hugging Face's ViT names them."""
    return any(_BLOCK_KEY.search(name) for name in state)


def hugging_face_to_timm(state: Mapping[str, Tensor], prefix: str = "vit.") -> StateDict:
    """Rename a Hugging Face ViT's tensors to timm's names, with query, key and value fused into `qkv`.

    Args:
        state: with or without the `vit.` prefix of ViTForImageClassification.
        prefix: stripped from the names.
    """
    named = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    out: StateDict = {}
    for name, tensor in named.items():
        if match := _BLOCK_KEY.fullmatch(name):
            layer, module, kind = match.groups()
            part = module.rsplit(".", 1)[-1]
            if part in _QKV:
                base = f"encoder.layer.{layer}.{module.removesuffix(part)}"
                if part == "query":
                    parts = [_take(named, f"{base}{each}.{kind}") for each in _QKV]
                    out[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
            elif module in _BLOCK:
                out[f"blocks.{layer}.{_BLOCK[module]}.{kind}"] = tensor
        else:
            for theirs, ours in _EMBEDDINGS.items():
                if name == theirs or name.startswith(theirs + "."):
                    out[ours + name.removeprefix(theirs)] = tensor
    return out


def _take(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise InvalidInput(f"the checkpoint must hold {name!r}, which is missing; it is incomplete.")
    return state[name]


def resample_position_embeddings(pos_embed: Tensor, grid: int) -> Tensor:
    """Position embeddings (1, 1 + g², D) for another square grid, bicubic as Hugging Face's ViT (4.29) does.

    That version enlarges the target by 0.1 before dividing, so that rounding never loses a row; the sampling positions
    shift a little with it, and matching checkpoints needs the same shift.
    """
    class_token, patches = pos_embed[:, :1], pos_embed[:, 1:]
    old = round(patches.shape[1] ** 0.5)
    if old == grid:
        return pos_embed
    patches = patches.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    scale = (grid + 0.1) / old
    patches = F.interpolate(patches, scale_factor=(scale, scale), mode="bicubic", align_corners=False)
    return torch.cat([class_token, patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def load_hugging_face_vit(vit: VisionTransformer, state: Mapping[str, Tensor]) -> None:
    """Load a Hugging Face ViT's tensors into a timm ViT, position embeddings resampled to its resolution.

    The head is loaded where it has the model's number of classes, and left as it is otherwise. LayerNorms get the eps
    that such a checkpoint was made with.

    Raises:
        InvalidInput: if a tensor is missing or has another shape.
    """
    converted = hugging_face_to_timm(state)
    if "pos_embed" in converted:
        converted["pos_embed"] = resample_position_embeddings(converted["pos_embed"], vit.patch_embed.grid_size[0])
    load_backbone(vit, converted)
    set_layer_norm_eps(vit, HUGGING_FACE_EPS)


def set_layer_norm_eps(vit: VisionTransformer, eps: float) -> None:
    """Give every LayerNorm of a ViT this eps."""
    for module in vit.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = eps


def load_vit(vit: VisionTransformer, state: Mapping[str, Tensor]) -> None:
    """Load an LPM's checkpoint, named as timm or as Hugging Face names it, position embeddings resampled.

    Raises:
        InvalidInput: if a tensor is missing or has another shape.
    """
    if is_hugging_face(state):
        load_hugging_face_vit(vit, state)
    else:
        load_backbone(vit, checkpoint_filter_fn(dict(state), vit))


def load_backbone(vit: VisionTransformer, state: Mapping[str, Tensor]) -> None:
    """Load timm-named tensors into a ViT; a head for another number of classes is left out.

    Raises:
        InvalidInput: if a tensor is missing or has another shape.
    """
    own = vit.state_dict()
    head = {name for name in own if name.startswith("head.")}
    if any(name in state and state[name].shape != own[name].shape for name in head) or not head & state.keys():
        state = {name: tensor for name, tensor in state.items() if name not in head} | {n: own[n] for n in head}
    load_exactly(vit, state)


def load_exactly(module: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict whose names and shapes must all match.

    Raises:
        InvalidInput: naming the first tensor that is missing, unknown or of another shape.
    """
    own = module.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state:
            raise InvalidInput(f"the checkpoint must hold {name!r}, which is missing; is it for another model?")
        if name not in own:
            raise InvalidInput(
                f"the checkpoint holds {name!r}, which the model does not have; is it for another model?"
            )
        if state[name].shape != own[name].shape:
            raise InvalidInput(
                f"{name!r} in the checkpoint must have shape {tuple(own[name].shape)}, "
                f"got {tuple(state[name].shape)}; is it for another model or resolution?"
            )
    if not any(tensor.is_meta for tensor in own.values()):  # on meta the check is all there is to do
        module.load_state_dict(state)


_OFFICIAL_FUSION = {"layer_norm": "norm", "out_proj": "out_proj", "prompt_proj": "prompt_proj"}


def official_to_side(state: Mapping[str, Tensor]) -> StateDict:
    """Rename the official code's side-model tensors to those of FineGrainedPromptTuning."""
    side = hugging_face_to_timm(
        {n.removeprefix("side_encoder."): t for n, t in state.items() if n.startswith("side_encoder.")}
    )
    out = {f"side.{name.replace('patch_embed.proj', 'patch_embed')}": tensor for name, tensor in side.items()}
    out["fusion.prompts"] = _take(state, "fusion_module.prompts").squeeze(1)
    for theirs, ours in _OFFICIAL_FUSION.items():
        for kind in ("weight", "bias"):
            if (tensor := state.get(f"fusion_module.{theirs}.{kind}")) is not None:
                out[f"fusion.{ours}.{kind}"] = tensor
    return out


def load_official_checkpoint(
    path: str | Path, *, num_heads: int | None = None, layer_kind: LayerKind = "lean", fused_attention: bool = True
) -> FineGrainedPromptTuning:
    """The side model of an official FPT or FPT+ checkpoint; every size is read off its tensors.

    Args:
        path: .safetensors or torch file of tensors named `side_encoder.*` and `fusion_module.*`, alone or with a
            `side.` prefix.
        num_heads: heads of the LPM, the one size no tensor shows; default LPM width / 64, as every standard ViT has.
        layer_kind, fused_attention: as build_fpt takes them.

    Raises:
        InvalidInput: if the file is unreadable, no such checkpoint, or its tensors do not fit together, or lean layers
            are asked for explicit attention.
    """
    state = read_checkpoint(path)
    if any(name.startswith("side.") for name in state):
        state = {name.removeprefix("side."): tensor for name, tensor in state.items() if name.startswith("side.")}
        num_heads = num_heads or _heads_in_metadata(Path(path))
    renamed = official_to_side(state)
    model = _model_of_shapes(renamed, num_heads, layer_kind=layer_kind, fused_attention=fused_attention)
    load_exactly(model, renamed)
    return model


def _heads_in_metadata(path: Path) -> int | None:
    """The number of heads, where a .safetensors file states it."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        heads = (file.metadata() or {}).get("num_heads")
    return json.loads(heads) if heads else None


def _model_of_shapes(state: StateDict, num_heads: int | None, **kind: LayerKind | bool) -> FineGrainedPromptTuning:
    """An FPT or FPT+ of the sizes that the tensors have."""
    lpm_dim = _take(state, "fusion.out_proj.weight").shape[1]
    num_layers, num_prompts, _ = state["fusion.prompts"].shape
    side_dim, _, patch_size, _ = _take(state, "side.patch_embed.weight").shape
    grid = round((_take(state, "side.pos_embed").shape[1] - 1) ** 0.5)
    num_heads = num_heads or lpm_dim // 64
    if not num_heads or lpm_dim % num_heads or side_dim % num_heads:
        raise InvalidInput(
            f"num_heads must divide the LPM's width {lpm_dim} and the side network's {side_dim}, got {num_heads}; "
            "pass the LPM's number of heads."
        )
    fusion_type = ProjectedFusion if "fusion.prompt_proj.weight" in state else FineGrainedFusion
    num_classes = len(_take(state, "side.head.weight"))
    fusion = fusion_type(num_layers, num_prompts, lpm_dim, num_heads, side_dim, **kind)
    side = SideNetwork(side_dim, num_heads, num_layers, grid * patch_size, patch_size, num_classes, **kind)
    return FineGrainedPromptTuning(side, fusion)


_REFERENCE_NAMES = {
    "side.patch_embed.": "projection.",
    "side.pos_embed": "position_embeddings",
    "side.cls_token": "cls_token",
    "side.blocks.": "layers.",
    ".attn.proj.": ".attention.out.",
    ".mlp.fc1.": ".intermediate.",
    ".mlp.fc2.": ".output.",
    "side.norm.": "layernorm.",
    "side.head.": "classifier.",
    "fusion.norm.": "fusion.layer_norm.",
}


def side_to_reference(state: Mapping[str, Tensor]) -> StateDict:
    """Tensors of a FineGrainedPromptTuning, weights or gradients, under the names and shapes of reference.PlainFPT."""
    plain: StateDict = {}
    for name, tensor in state.items():
        for ours, theirs in _REFERENCE_NAMES.items():
            name = name.replace(ours, theirs)
        if ".attn.qkv." in name:
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                plain[name.replace(".attn.qkv.", f".attention.{part}.")] = rows
        else:
            plain[name] = tensor.unsqueeze(1) if name == "fusion.prompts" else tensor
    return plain
