"""Time, power and energy of a cell's step on a card: predicted, never measured."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from bench.cards.gpus import Gpu

from .energy import power_of
from .feeding import BatchFeed, copy_s, fed_step_s
from .operations import Engine, Kind, Operation, StepWork
from .peaks import card_peaks
from .step_time import KernelTime, time_of

BoundBy = Literal["arithmetic", "memory", "launches", "host", "feeding"]

HOST_S_PER_OPERATOR = 10e-6
"""Processor time for an operator of PyTorch, from Python to the launch: 6 to 11 µs over the ten methods on the emulated
card, on a shared virtual machine (AMD EPYC)."""

HOST_S_PER_LAUNCH = 3e-6
"""Processor time of the driver for a launch, which the emulated card does not take; assumed."""


@dataclass(frozen=True)
class TimePart:
    """Operations of one kind in one phase of a step."""

    phase: str
    kind: Kind
    count: int
    flops: int
    bytes_moved: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StepEstimate:
    """Prediction of a step's time and energy on a card."""

    gpu: str
    step_time_s: float
    img_per_s: float
    energy_j_per_img: float
    """Energy of the card, idle power included."""

    mean_power_w: float
    peak_power_w: float
    awake_w: float
    """Power of the card while it waits."""

    bound_by: BoundBy
    """What sets the pace: `feeding` or `host` if the card waits for it, else the kind of kernels that takes longest."""

    device_busy_s: float
    """Time of the kernels."""

    host_s: float
    """Time that issuing the step would take on the host of HOST_S_PER_OPERATOR."""

    seconds_by_bound: dict[str, float]
    """Time of the kernels by what bounds them."""

    parts: tuple[TimePart, ...]
    """Time of the kernels by phase and kind of operation, the longest first."""

    input_bytes: int
    """Size of a batch: images, or stored features with their side images."""

    kernel_launches: int
    bytes_moved: int
    flops_by_engine: dict[Engine, int]
    arithmetic_intensity: float
    host_time_s: float = field(compare=False)
    """Processor time of the step on this machine; it does not enter the prediction."""


def estimate_step(
    work: StepWork, gpu: Gpu, batch_size: int, *, batch_bytes: int | None = None, feed: BatchFeed | None = None
) -> StepEstimate | None:
    """Predict the step of a cell on a card.

    Host and card work side by side, so the slower of the two sets the pace, and the loader does if it is slower still.

    Args:
        work: what the step does.
        gpu: a card of the catalogue.
        batch_size: images in a step.
        batch_bytes: size of a batch in host memory, if it comes from there; None if batches lie on the card.
        feed: how batches come; the official code's loader by default.

    Returns:
        The prediction; None for a card whose rates are not known.
    """
    card = card_peaks(gpu)
    if card is None:
        return None
    kernels = [time_of(operation, card) for operation in work.operations]
    seconds = {"arithmetic": 0.0, "memory": 0.0, "launches": 0.0}
    for kernel in kernels:
        seconds[kernel.bound_by] += kernel.seconds
    busy_s = sum(seconds.values())
    host_s = work.num_operators * HOST_S_PER_OPERATOR + work.kernel_launches * HOST_S_PER_LAUNCH
    step_s, bound = max(busy_s, host_s), max(seconds, key=seconds.get) if busy_s >= host_s else "host"
    if batch_bytes is not None:
        alone_s, feed = step_s, feed or BatchFeed()
        step_s = fed_step_s(alone_s, batch_bytes, feed)
        bound = "feeding" if step_s > alone_s + copy_s(batch_bytes, feed) else bound
    power = power_of(kernels, step_s, card)
    return StepEstimate(
        gpu=gpu.name,
        step_time_s=step_s,
        img_per_s=batch_size / step_s,
        energy_j_per_img=power.mean_w * step_s / batch_size,
        mean_power_w=power.mean_w,
        peak_power_w=power.peak_w,
        awake_w=card.awake_w,
        bound_by=bound,
        device_busy_s=busy_s,
        host_s=host_s,
        seconds_by_bound=seconds,
        parts=_parts(work.operations, kernels),
        input_bytes=work.input_bytes,
        kernel_launches=work.kernel_launches,
        bytes_moved=work.bytes_moved,
        flops_by_engine=work.flops_by_engine,
        arithmetic_intensity=work.arithmetic_intensity,
        host_time_s=work.host_time_s,
    )


def _parts(operations: Sequence[Operation], kernels: Sequence[KernelTime]) -> tuple[TimePart, ...]:
    groups = defaultdict(list)
    for operation, kernel in zip(operations, kernels, strict=True):
        groups[operation.phase, operation.kind].append((operation, kernel.seconds))
    parts = [
        TimePart(
            phase=phase,
            kind=kind,
            count=len(group),
            flops=sum(operation.flops for operation, _ in group),
            bytes_moved=sum(operation.bytes_read + operation.bytes_written for operation, _ in group),
            seconds=sum(seconds for _, seconds in group),
        )
        for (phase, kind), group in groups.items()
    ]
    return tuple(sorted(parts, key=lambda part: -part.seconds))
