"""The 23 memory cells that the paper prints for FPT and FPT+, and the training behind each."""

import torch

from bench.cells.config import CellConfig
from bench.paper.printed import PrintedCell, printed_cells
from fptplus.network.selection import num_important_tokens
from methods import create_backbone, find_method
from methods.backbone import token_count

TABLES = ("I", "III", "IV", "V", "VI")
METHODS = ("fpt", "fptplus")
"""Methods covered: a cell belongs to one of them if its method's name begins with it. The others are FPT+ with one
value changed."""


def stack_cells() -> list[PrintedCell]:
    """Return each printed cell once, at its first place."""
    found = {}
    for printed in printed_cells():
        if printed.quantity == "memory_mib" and printed.table in TABLES and printed.cell.method.startswith(METHODS):
            found.setdefault(printed.cell.cell_id, printed)
    return list(found.values())


def training_of(cell: CellConfig) -> dict:
    """Return what loop.py needs to train a cell: a `loop.Cell` in JSON form."""
    with torch.device("meta"):
        vit = create_backbone(cell.model, cell.res, cell.num_classes)
    config, num_heads = find_method(cell.method).config, vit.blocks[0].attn.num_heads
    model = {
        "variant": config.variant,
        "num_layers": len(config.tapped_layers(len(vit.blocks))),
        "num_prompts": config.num_prompts,
        "lpm_dim": vit.embed_dim,
        "num_heads": num_heads,
        "dim": config.side_dim(vit.embed_dim, num_heads),
        "res": config.side_res,
        "patch_size": config.side_patch_size,
        "num_classes": cell.num_classes,
    }
    return {"model": model, "num_tokens": num_important_tokens(token_count(vit), config.token_ratio)}
