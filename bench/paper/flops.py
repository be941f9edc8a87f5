"""The paper's FLOPs column: multiply-accumulates (MACs) of a forward pass of one 512-px image, fused attention omitted.

The printed 87.84 G of full fine-tuning lacks the two attention products (19.4 G). This is what fvcore reports if
attention is one fused kernel. LoRA's and AdaLoRA's printed figures contain them, so these two models ran explicit
attention. Their "overhead" of 20 G is that difference and not a cost of LoRA.
"""

from bench.cells.config import CellConfig

from .evidence import Evidence, Number
from .settings import paper_cell

COUNTED_WITH_ATTENTION = ("lora", "adalora")


def convention_cell(method: str) -> CellConfig:
    """Return the cell whose fvcore figure follows the paper's convention for a method."""
    return paper_cell(method, attention="eager" if method in COUNTED_WITH_ATTENTION else "sdpa")


def by_convention_gmacs(evidence: Evidence, method: str) -> Number | None:
    """Return the GMACs of one image as the paper counts them; None if fvcore was not installed."""
    record = evidence.record(convention_cell(method))
    if record.fvcore_forward_macs is None:
        return None
    return Number(value=record.fvcore_forward_macs / 1e9, source="counted", record=record.cell_id)


def true_gmacs(evidence: Evidence, method: str) -> Number:
    """Return the GMACs of one image with every matrix product counted, attention included."""
    record = evidence.record(paper_cell(method))
    return Number(value=record.forward_macs / 1e9, source="counted", record=record.cell_id)


def preloading_by_convention_gmacs(evidence: Evidence) -> Number | None:
    """Return the GMACs of one image through the whole large pre-trained model (LPM), as the paper counts preloading."""
    return by_convention_gmacs(evidence, "full")


def preloading_gmacs(evidence: Evidence) -> Number:
    """Return one image's GMACs through the frozen LPM as FPT+ taps it, up to the last tapped block's projection."""
    record = evidence.record(paper_cell("fptplus"))
    return Number(value=record.backbone_forward_macs / 1e9, source="counted", record=record.cell_id)
