"""Fine-tuning methods over one shared ViT; METHODS names the ten of the paper, VARIANTS others of the same."""

from dataclasses import replace
from difflib import get_close_matches

from fptplus import FPT, FPTPLUS, InvalidInput

from .adalora import AdaLoRA
from .adapter import AdapterTuning
from .attention import AttentionTuning
from .backbone import MODELS as MODELS
from .backbone import create_backbone as create_backbone
from .backbone import patch_size_of as patch_size_of
from .bitfit import BitFit
from .fpt import FineGrainedPrompts, Preloading
from .full import Full
from .linear import Linear
from .lora import LoRA
from .method import FineTuning as FineTuning
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
    "fpt_live": replace(METHODS["fpt"], title="FPT, live LPM", live=True),
    "fptplus_live": replace(METHODS["fptplus"], title="FPT+, live LPM", live=True),
    "fptplus_bf16": replace(METHODS["fptplus"], title="FPT+, bf16 features", features="bf16"),
    "fptplus_int8": replace(METHODS["fptplus"], title="FPT+, int8 features", features="int8"),
}
"""FPT and FPT+ with the frozen LPM run in every step, FPT+ on features stored smaller; not in the default selection."""

PASSES: dict[str, Method] = {
    f"{name}_preloading": Preloading(METHODS[name], f"{METHODS[name].title}, preloading", METHODS[name].source)
    for name in ("fpt", "fptplus")
}
"""What FPT and FPT+ do once, before they train: no fine-tuning, but a cost of it."""


def find_method(name: str) -> Method:
    """The method of a name of METHODS, VARIANTS or PASSES.

    Raises:
        InvalidInput: if there is none, with the known names.
    """
    known = METHODS | VARIANTS | PASSES
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise InvalidInput(
            f"method must be one of {', '.join(known)}, got {name!r}" + (f"; did you mean {near[0]}?" if near else ".")
        )
    return known[name]
