"""What a card can do at most (`peaks.csv`): rates by number type, and power.

Two rates stand side by side. The peak is the vendor's figure, without sparsity and with sums in fp32. The product rate
is the fastest product of two square matrices that somebody measured with PyTorch; it includes the clocks that the
card's power allows, and the time model starts from it.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from bench.cards.gpus import Gpu

from .operations import Engine

_TABLE = Path(__file__).with_name("peaks.csv")

_IDLE_SHARE = 0.08
"""Idle power as a share of the limit where nobody says; assumed: 27 of 300 W, 24 of 350 W and 30 of 300 W are known."""

_AWAKE_SHARE = {"GDDR": 0.19, "HBM": 0.07}
"""What a CUDA context adds to idle power, as a share of the limit: 66 W of 350 on an L40S, 26 to 50 W of 400 and 700 on
A100 and H100 (arXiv 2605.23918); assumed for other cards with such memory."""

_HBM_BUS_BITS = 2048
"""Narrowest memory bus of a card with HBM."""


@dataclass(frozen=True, kw_only=True)
class CardPeaks:
    """Rates and power of a card."""

    peak_flops: dict[Engine, float]
    """Peak in FLOP/s by engine; an engine that the card lacks is missing."""

    product_flops: dict[Engine, float]
    """FLOP/s of the largest matrix products by engine."""

    memory_bytes_per_s: float
    l2_bytes: int
    num_sms: int

    power_limit_w: float
    idle_w: float
    """Power without a process."""

    awake_w: float
    """Power with a process that does nothing."""

    sources: dict[str, str]
    """Sources of `peak`, `product`, `power` and `idle`; `assumed` where nobody says."""


def card_peaks(gpu: Gpu) -> CardPeaks | None:
    """Return the peaks of a card of the catalogue; None for a card that is not in it, or whose memory is not known."""
    with _TABLE.open(newline="", encoding="utf-8") as file:
        row = next((row for row in csv.DictReader(file) if row["name"] == gpu.name), None)
    if row is None or gpu.memory_bytes_per_s is None:
        return None
    peak = {
        engine: float(v) * 1e12 for engine in ("fp32", "tf32", "fp16", "bf16") if (v := row[f"{engine}_peak_tflops"])
    }
    product = {engine: float(row[f"{engine}_product_tflops"]) * 1e12 for engine in ("fp32", "fp16", "bf16")}
    # nobody lists products in tf32: the same share of the peak as in fp16
    product["tf32"] = peak["tf32"] * min(1, product["fp16"] / peak["fp16"]) if "tf32" in peak else product["fp32"]
    limit_w = float(row["power_limit_w"])
    idle_w = float(row["idle_w"] or _IDLE_SHARE * limit_w)
    memory = "HBM" if gpu.memory_bus_bits >= _HBM_BUS_BITS else "GDDR"
    return CardPeaks(
        peak_flops=peak,
        product_flops=product,
        memory_bytes_per_s=gpu.memory_bytes_per_s,
        l2_bytes=gpu.l2_bytes or 0,
        num_sms=gpu.num_sms,
        power_limit_w=limit_w,
        idle_w=idle_w,
        awake_w=idle_w + _AWAKE_SHARE[memory] * limit_w,
        sources={name: row[f"{name}_source"] for name in ("peak", "product", "power", "idle")},
    )
