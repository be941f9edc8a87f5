"""How long a card takes over the operations of a step (docs/time.md).

A kernel takes the longer of its arithmetic and its traffic, and never less than the shortest kernel:

    t = launches · t0 + max(arithmetic, traffic / (β · bandwidth))

Matrix products are computed in tiles (bm, bn), one after another on each multiprocessor, the last wave as long as the
others; the library takes the fastest tile:

    arithmetic = min over tiles of ⌈tiles / SMs⌉ · 2 · bm · bn · (k + k0) · (1 + τ (1/x − 1/x0)) / (rate / SMs)
    x = bm · bn / (bm + bn)

k0 is the depth that filling and draining a tile costs, τ what small tiles lose because they load more for each product.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .operations import Operation, Product
from .peaks import CardPeaks

Bound = Literal["arithmetic", "memory", "launches"]


@dataclass(frozen=True, kw_only=True)
class TimeConstants:
    """Constants of the model. The first four are fitted on half of the published throughputs, the rest are assumed."""

    bandwidth_share: float = 0.990
    """β: traffic over peak bandwidth that kernels reach, by the bytes of their tensors."""

    tile_penalty: float = 7.34
    """τ, in numbers."""

    depth_overhead: float = 124.2
    """k0, in numbers."""

    attention_share: float = 0.892
    """Rate of a fused attention kernel as a share of the product rate, forward."""

    attention_backward_share: float = 0.714
    """The same, backward: 0.8 of forward; no published row has such a kernel."""

    convolution_share: float = 0.5
    """Rate of a convolution (the patch embedding) as a share of the product rate."""

    kernel_s: float = 3e-6
    """t0, the shortest kernel."""

    l2_share: float = 0.5
    """Part of the L2 cache that holds what was touched last."""


CONSTANTS = TimeConstants()

TILES = (
    (256, 128),
    (128, 256),
    (128, 128),
    (256, 64),
    (64, 256),
    (128, 64),
    (64, 128),
    (64, 64),
    (32, 64),
    (64, 32),
    (32, 32),
)
"""Tiles (rows, columns) that libraries have kernels for (CUTLASS, media/docs/efficient_gemm.md)."""

_LARGEST_TILE = 256 * 128 / (256 + 128)


@dataclass(frozen=True)
class KernelTime:
    """Time of one operation on a card."""

    seconds: float
    bound_by: Bound


def time_of(operation: Operation, card: CardPeaks, constants: TimeConstants = CONSTANTS) -> KernelTime:
    """Return how long an operation takes on a card."""
    latency_s = operation.launches * constants.kernel_s
    traffic_s = traffic_bytes(operation, card, constants) / (card.memory_bytes_per_s * constants.bandwidth_share)
    arithmetic_s = _arithmetic_s(operation, card, constants)
    longest = max(latency_s, traffic_s, arithmetic_s)
    bound = "launches" if longest == latency_s else "memory" if longest == traffic_s else "arithmetic"
    return KernelTime(latency_s + max(traffic_s, arithmetic_s), bound)


def traffic_bytes(operation: Operation, card: CardPeaks, constants: TimeConstants = CONSTANTS) -> int:
    """Return the bytes between a card's memory and its chip; what was touched last is still in the L2 cache.

    Two operators move more than their tensors: the backward pass of softmax first writes the product of gradient and
    output (aten/native/cuda/SoftMax.cu), and that of a normalisation reads its inputs once in each of its kernels.
    """
    held = constants.l2_share * card.l2_bytes
    moved = sum(
        touch.num_bytes
        for touch in operation.touches
        if touch.is_written or touch.since_bytes is None or touch.since_bytes + touch.num_bytes >= held
    )
    if operation.op == "_softmax_backward_data" and operation.launches > 1:
        return 2 * moved
    if operation.op == "native_layer_norm_backward":
        return moved + operation.bytes_read * (operation.launches - 1)
    return moved


def _arithmetic_s(operation: Operation, card: CardPeaks, constants: TimeConstants) -> float:
    if operation.products:
        return sum(product_s(product, card, constants) for product in operation.products)
    rate = card.product_flops.get(operation.engine, card.product_flops["fp32"])
    match operation.kind:
        case "convolution":
            return operation.flops / (rate * constants.convolution_share)
        case "attention" if "backward" in operation.op:
            return operation.flops / (rate * constants.attention_backward_share)
        case "attention":
            return operation.flops / (rate * constants.attention_share)
    return 0.0


def product_s(product: Product, card: CardPeaks, constants: TimeConstants = CONSTANTS) -> float:
    """Return the time of the arithmetic of a product with the fastest tile."""
    rate = card.product_flops.get(product.engine, card.product_flops["fp32"]) / card.num_sms
    depth = product.k + constants.depth_overhead

    def with_tile(rows: int, columns: int) -> float:
        tiles = math.ceil(product.m / rows) * math.ceil(product.n / columns) * product.batch
        loads = 1 + constants.tile_penalty * ((rows + columns) / (rows * columns) - 1 / _LARGEST_TILE)
        return math.ceil(tiles / card.num_sms) * 2 * rows * columns * depth * loads / rate

    return min(with_tile(*tile) for tile in TILES)


def device_s(operations: Iterable[Operation], card: CardPeaks, constants: TimeConstants = CONSTANTS) -> float:
    """Return how long a card is busy with operations, one after another."""
    return sum(time_of(operation, card, constants).seconds for operation in operations)
