"""Fine-tuning methods over one shared ViT: METHODS are the ten of the paper, VARIANTS and ABLATIONS others."""

from dataclasses import replace
from difflib import get_close_matches

from fptplus import FPT, FPTPLUS, InvalidInput
from fptplus.training.fine_tuning import FineTuning as FineTuning

from .ablations import fptplus_ablations
from .adalora import AdaLoRA
from .adapter import AdapterTuning
from .attention_tuning import AttentionTuning
from .backbone import MODELS as MODELS
from .backbone import create_backbone as create_backbone
from .backbone import patch_size_of as patch_size_of
from .bitfit import BitFit
from .components import SideComponents
from .fpt import FineGrainedPrompts, Preloading
from .full import Full
from .linear import Linear
from .lora import LoRA
from .method import Method as Method
from .vpt import VPT

METHODS: dict[str, Method] = {
    "full": Full(),
    "linear": Linear(),
    "vpt": VPT(),
    "attention": AttentionTuning(),
    "adapter": AdapterTuning(),
    "bitfit": BitFit(),
    "lora": LoRA(),
    "adalora": AdaLoRA(),
    "fpt": FineGrainedPrompts(FPT, "FPT", "Huang et al., MICCAI 2024, arXiv 2403.07576"),
    "fptplus": FineGrainedPrompts(FPTPLUS, "FPT+", "Huang et al., FPT+"),
}
"""The ten methods of the paper's Table I, in its order."""

VARIANTS: dict[str, Method] = {
    "adapter_96": AdapterTuning(title="Adapter, one a block", bottleneck=96, sublayers=("mlp",), layer_norm=True),
    "attention_pos": AttentionTuning(title="Attention-tuning, positions", position_embeddings=True),
    "fpt_live": replace(METHODS["fpt"], title="FPT, live LPM", live=True),
    "fptplus_live": replace(METHODS["fptplus"], title="FPT+, live LPM", live=True),
    "fptplus_bf16": replace(METHODS["fptplus"], title="FPT+, bf16 features", features="bf16"),
    "fptplus_int8": replace(METHODS["fptplus"], title="FPT+, int8 features", features="int8"),
    "side_only": SideComponents(FPTPLUS, "Side network alone", with_lpm=False),
    "side_mlp": SideComponents(FPTPLUS, "Side network, LPM by MLP", with_lpm=True),
    "side_fusion": FineGrainedPrompts(
        replace(FPTPLUS, token_ratio=1.0), "Side network, fusion modules", "FPT+, Sec. IV-G1", live=True, symmetric=True
    ),
    "side_fusion_asymmetric": FineGrainedPrompts(
        replace(FPTPLUS, token_ratio=1.0), "Fusion modules, asymmetric input", "FPT+, Sec. IV-G1", live=True
    ),
}
"""Other forms of two baselines, and FPT and FPT+ with the frozen LPM run in every step, on features stored smaller, and
FPT+'s components one by one (Fig. 7)."""

ABLATIONS: dict[str, Method] = dict(fptplus_ablations(METHODS["fptplus"]))
"""FPT+ with one hyperparameter changed, such as fptplus_side64 or fptplus_prompts4. They run only when named."""

PASSES: dict[str, Method] = {
    f"{name}_preloading": Preloading(METHODS[name], f"{METHODS[name].title}, preloading", METHODS[name].source)
    for name in ("fpt", "fptplus")
}
"""What FPT and FPT+ do once, before they train: it is not fine-tuning, but part of its cost."""


def find_method(name: str) -> Method:
    """Return the method of a name in METHODS, VARIANTS, ABLATIONS or PASSES.

    Raises:
        InvalidInput: if there is none; the message lists the known names.
    """
    known = METHODS | VARIANTS | ABLATIONS | PASSES
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise InvalidInput(
            f"method must be one of {', '.join(METHODS | VARIANTS)}, or an ablation such as {next(iter(ABLATIONS))}, "
            f"got {name!r}" + (f"; did you mean {near[0]}?" if near else ".")
        )
    return known[name]
