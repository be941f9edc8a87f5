"""Checkpoints in three layouts: timm, Hugging Face ViT, and the official FPT and FPT+ code.

The first two hold the frozen large pre-trained model (LPM), the third the side model. Hugging Face and the official
code keep query, key and value as three linear layers; timm has one fused `qkv`.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from fptplus.errors import InvalidInput

from .checkpoint_file import StateDict, read_checkpoint
from .fusion import FineGrainedFusion, ProjectedFusion
from .layer_kind import LayerKind
from .model import FineGrainedPromptTuning
from .side_network import SideNetwork

HUGGING_FACE_EPS = 1e-12
"""Epsilon of every LayerNorm of Hugging Face's ViT, and so of the official code's LPM; timm's have 1e-6."""

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


_SINCE_TRANSFORMERS_5 = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_BLOCK_KEY_5 = re.compile(r"(vit\.)?layers\.(\d+)\.(.+)\.(weight|bias)")


def _with_published_names(state: Mapping[str, Tensor]) -> StateDict:
    """Rename tensors as transformers 5 has them in memory to the names that Hugging Face's files have."""
    if not any("patch_embeddings" in name for name in state):
        return dict(state)
    out: StateDict = {}
    for name, tensor in state.items():
        if match := _BLOCK_KEY_5.fullmatch(name):
            prefix, layer, module, kind = match.groups()
            name = f"{prefix or ''}encoder.layer.{layer}.{_SINCE_TRANSFORMERS_5.get(module, module)}.{kind}"
        out[name] = tensor
    return out


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Return whether the tensors are named as in Hugging Face's ViT."""
    return any(_BLOCK_KEY.search(name) for name in state)


def hugging_face_to_timm(state: Mapping[str, Tensor], prefix: str = "vit.") -> StateDict:
    """Rename a Hugging Face ViT's tensors to timm's names, with query, key and value fused into `qkv`.

    Args:
        state: tensors by name, with or without the `vit.` prefix of ViTForImageClassification.
        prefix: the prefix to strip from the names.
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
    """Resample position embeddings (1, 1 + g², D) to another square grid, bicubic as in Hugging Face's ViT (4.29).

    That version enlarges the target by 0.1 before dividing, so that rounding never loses a row. This shifts
    the sampling positions a little, and matching its checkpoints needs the same shift.
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
    """Load a Hugging Face ViT's tensors into a timm ViT, and resample position embeddings to its resolution.

    The head is loaded where it has the model's number of classes, and left as it is otherwise. LayerNorms get the eps
    that such a checkpoint was made with.

    Raises:
        InvalidInput: if a tensor is missing or has another shape.
    """
    converted = hugging_face_to_timm(state)
    if "pos_embed" in converted:
        _check_position_embeddings(converted["pos_embed"], 1, vit.embed_dim)
        converted["pos_embed"] = resample_position_embeddings(converted["pos_embed"], vit.patch_embed.grid_size[0])
    load_backbone(vit, converted)
    set_layer_norm_eps(vit, HUGGING_FACE_EPS)


def set_layer_norm_eps(vit: VisionTransformer, eps: float) -> None:
    """Give every LayerNorm of a ViT this eps."""
    for module in vit.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = eps


_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "teacher.", "backbone.", "encoder.", "base_encoder.")
"""What training code puts before the names of an LPM's tensors."""

_PRETRAINING = re.compile(r"decoder[._]|(dino_|ibot_)?head\.(?!(weight|bias)$)|(student|momentum_encoder|predictor)\.")
"""What only pre-training needs: MAE's decoder, heads and second networks of DINO, iBOT and MoCo.
A mask token is left to timm, which knows DINOv2's names by it."""

_READ_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_vit(vit: VisionTransformer, state: Mapping[str, Tensor]) -> None:
    """Load an LPM's checkpoint with timm's or Hugging Face's names, and resample its position embeddings.

    Prefixes that training code puts before the names are removed; what only pre-training needs is left out.

    Raises:
        InvalidInput: if a tensor is missing, has another shape or is no floating-point number, or the checkpoint is of
            a ViT that computes something else: distilled, or with averaged tokens.
    """
    state = _with_published_names(without_wrappers(state))
    _check_numbers(state)
    _check_architecture(vit, state)
    if is_hugging_face(state):
        load_hugging_face_vit(vit, state)
    else:
        _check_embeddings(vit, state)
        load_backbone(vit, checkpoint_filter_fn(state, vit))


def without_wrappers(state: Mapping[str, Tensor]) -> StateDict:
    """An LPM's tensors under the names that its own code gives them, without those that only pre-training needs.

    Raises:
        InvalidInput: if two tensors have one name without its prefixes, as those of two networks do.
    """
    state = _without_pretraining(state)
    while prefix := next((wrapper for wrapper in _WRAPPERS if _has_lpm_below(state, wrapper)), None):
        bare = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        if len(bare) < len(state):
            raise InvalidInput(
                f"weights must be those of one network, the checkpoint holds two, one with names that begin "
                f"{prefix!r}; save one of them."
            )
        state = _without_pretraining(bare)
    return state


def _has_lpm_below(state: Mapping[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) and "patch_embed" in name for name in state)


def _without_pretraining(state: Mapping[str, Tensor]) -> StateDict:
    return {name: tensor for name, tensor in state.items() if not _PRETRAINING.match(name)}


def _check_numbers(state: Mapping[str, Tensor]) -> None:
    """Refuse what loading would cast without a word."""
    for name, tensor in state.items():
        if tensor.dtype not in _READ_DTYPES:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise InvalidInput(
                f"weights must be floating-point numbers of at least 16 bits, {name!r} is {dtype}; "
                "is it quantised, or for another model?"
            )
        if not tensor.is_meta and not tensor.isfinite().all():
            raise InvalidInput(f"weights must be finite, {name!r} in the checkpoint holds NaN or infinity.")


def _check_architecture(vit: VisionTransformer, state: Mapping[str, Tensor]) -> None:
    """Refuse ViTs that compute something else than the model, by the tensors that give them away."""
    own = vit.state_dict()
    for name in state:
        if name.endswith(("dist_token", "distillation_token")):
            raise InvalidInput(
                f"weights must be those of a plain ViT, {name!r} in the checkpoint is a distilled DeiT's second class "
                "token; use DeiT without distillation."
            )
        if name.startswith("fc_norm.") and name not in own:
            raise InvalidInput(
                f"weights must be those of a ViT that reads its class token, {name!r} in the checkpoint is of one "
                "fine-tuned on averaged tokens (MAE and RETFound do that); use the checkpoint of its pre-training."
            )


def _check_embeddings(vit: VisionTransformer, state: Mapping[str, Tensor]) -> None:
    """Refuse patch and position embeddings that resampling would not make right."""
    patches, own_patches = state.get("patch_embed.proj.weight"), vit.patch_embed.proj.weight
    if patches is not None and patches.dim() == 4 and patches.shape[2:] != own_patches.shape[2:]:
        raise InvalidInput(
            f"the checkpoint must have the model's patch size {own_patches.shape[-1]}, it has {patches.shape[-1]}; "
            "is it for another model?"
        )
    if (pos_embed := state.get("pos_embed")) is not None and vit.pos_embed is not None:
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        if "register_tokens" in state:  # DINOv2 as published: the class token has a position, registers have none
            prefix = 1
        _check_position_embeddings(pos_embed, prefix, vit.embed_dim)


def _check_position_embeddings(pos_embed: Tensor, prefix: int, dim: int) -> None:
    square = pos_embed.dim() == 3 and max(0, pos_embed.shape[1] - prefix) ** 0.5
    if not square or square % 1 or pos_embed.shape[0] != 1 or pos_embed.shape[2] != dim:
        raise InvalidInput(
            f"'pos_embed' in the checkpoint must have shape (1, {f'{prefix} + ' if prefix else ''}g², {dim}), "
            f"got {tuple(pos_embed.shape)}; is it for another model?"
        )


def load_backbone(vit: VisionTransformer, state: Mapping[str, Tensor]) -> None:
    """Load tensors with timm's names into a ViT; a head for another number of classes is left out.

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
    if not any(tensor.is_meta for tensor in own.values()):  # on meta there is nothing to load, only to check
        module.load_state_dict(state)


_OFFICIAL_FUSION = {"layer_norm": "norm", "out_proj": "out_proj", "prompt_proj": "prompt_proj"}


def official_to_side(state: Mapping[str, Tensor]) -> StateDict:
    """Rename the official code's side-model tensors to the names in FineGrainedPromptTuning."""
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
    """Load the side model of an official FPT or FPT+ checkpoint; all sizes are read from its tensors.

    Args:
        path: .safetensors or torch file of tensors named `side_encoder.*` and `fusion_module.*`, alone or with a
            `side.` prefix.
        num_heads: heads of the LPM, the one size no tensor shows; default LPM width / 64, as in every standard ViT.
        layer_kind, fused_attention: see build_fpt.

    Raises:
        InvalidInput: if the file is unreadable or not such a checkpoint, its tensors do not fit together, or lean
            layers are asked for explicit attention.
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
    """Return the number of heads if a .safetensors file states it, else None."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        heads = (file.metadata() or {}).get("num_heads")
    return json.loads(heads) if heads else None


def _model_of_shapes(state: StateDict, num_heads: int | None, **kind: LayerKind | bool) -> FineGrainedPromptTuning:
    """Build an FPT or FPT+ model of the sizes that the tensors have."""
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
    """Convert weights or gradients of a FineGrainedPromptTuning to the names and shapes of reference.PlainFPT."""
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
