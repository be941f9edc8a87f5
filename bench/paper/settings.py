"""The cells behind the paper's tables and figures, and behind the fair comparison."""

from collections.abc import Iterator
from dataclasses import asdict

from bench.cells.config import PROFILES, CellConfig
from methods import METHODS
from methods.ablations import VALUES, ablation_name

TABLE3_RES = (128, 256, 384, 512, 640)
FIGURE2_RES = (128, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)

COMPONENTS = ("side_only", "side_mlp", "side_fusion", "side_fusion_asymmetric", "fptplus_live", "fptplus")
"""Methods of Figure 7, left to right: each adds one component to the one before."""

ABLATED = ("side", "prompts", "k", "layers", "ratio")
"""Hyperparameters of Tables IV, V and VI and of Figures 5 and 8."""

SIX_SIDE_LAYERS = "fptplus_layers3"
"""FPT+ on ViT-L with as many side layers as on ViT-B: a quarter of the number of blocks.

That is six for the 24 blocks of this large pre-trained model (LPM), as three for ViT-B's 12.

This is Table III's FPT+: with it, PyTorch 2.0.0 reserves the printed memory less one constant; with half of the LPM's
blocks it does not (results/paper/paper_stack.csv). `fptplus` itself has 12 on ViT-L.
"""

SETTINGS: dict[str, dict[str, str]] = {
    "the paper's setting": {},
    "fused attention": {"attention": "sdpa"},
    "bf16": {"precision": "bf16"},
    "checkpointing": {"checkpointing": "block"},
    "fused AdamW": {"optimizer": "adamw_fused"},
    "fused attention, bf16": {"attention": "sdpa", "precision": "bf16"},
    "fused attention, bf16, checkpointing": {"attention": "sdpa", "precision": "bf16", "checkpointing": "block"},
    "all four": {"attention": "sdpa", "precision": "bf16", "checkpointing": "block", "optimizer": "adamw_fused"},
}
"""Settings that change neither method nor result: one at a time, then combined step by step."""

LARGE_SETTINGS = ("the paper's setting", "fused attention", "all four")
LARGE_RES = (512, 640)
"""Resolutions at which ViT-L ran out of memory in the paper's Table III."""


def paper_cell(method: str, model: str = "vit_b", res: int = 512, **axes: str) -> CellConfig:
    """Return a cell of the paper: batch 16, predicted for its RTX A6000, in its setting unless axes are given."""
    return CellConfig(method=method, model=model, res=res, **(PROFILES["paper"] | axes))


def on_vit_l(method: str) -> str:
    """Return the name of a method as the paper ran it on ViT-L."""
    return SIX_SIDE_LAYERS if method == "fptplus" else method


def table3_cell(method: str, res: int, **axes: str) -> CellConfig:
    """Return a cell of Table III."""
    return paper_cell(on_vit_l(method), "vit_l", res, **axes)


def ablated(short: str) -> Iterator[tuple[float, CellConfig]]:
    """Yield FPT+ with each value of one hyperparameter, as (value, cell)."""
    for value in VALUES[short][1]:
        yield value, paper_cell(ablation_name(METHODS["fptplus"], short, value))


def all_cells() -> list[CellConfig]:
    """Return every cell once."""
    cells = [
        *(paper_cell(method, res=res) for res in FIGURE2_RES for method in METHODS),
        *(paper_cell(method, "vit_l", res) for res in TABLE3_RES for method in METHODS),
        *(paper_cell(SIX_SIDE_LAYERS, "vit_l", res) for res in TABLE3_RES),
        *(paper_cell(method) for method in COMPONENTS),
        *(cell for short in ABLATED for _, cell in ablated(short)),
        *(paper_cell(method, **axes) for axes in SETTINGS.values() for method in METHODS),
        *(
            paper_cell(method, "vit_l", res, **SETTINGS[setting])
            for setting in LARGE_SETTINGS
            for res in LARGE_RES
            for method in (*METHODS, SIX_SIDE_LAYERS)
        ),
    ]
    return list({tuple(asdict(cell).values()): cell for cell in cells}.values())
