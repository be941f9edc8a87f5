"""What one step does: every operator that launches a kernel, in order, with its numbers, bytes and matrix products."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Engine = Literal["fp32", "tf32", "fp16", "bf16", "fp64", "int8", "fp8"]
"""Unit and number type of products: fp32 is on the plain cores, tf32, fp16, bf16, int8, fp8 on the tensor cores."""

Kind = Literal["product", "convolution", "attention", "softmax", "norm", "elementwise", "copy", "optimizer", "other"]


@dataclass(frozen=True)
class Product:
    """`batch` matrix products (m, k) by (k, n)."""

    m: int
    n: int
    k: int
    batch: int
    engine: Engine

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiplication and an addition for each number of each sum."""
        return 2 * self.m * self.n * self.k * self.batch


@dataclass(frozen=True)
class Touch:
    """A tensor that an operator reads or writes."""

    num_bytes: int
    is_written: bool
    since_bytes: int | None = None
    """For a read, the bytes that other tensors took since this one was last touched in the step; None if never."""


@dataclass(frozen=True)
class Operation:
    """One operator that launches at least one kernel, or copies between host and device."""

    op: str
    kind: Kind
    phase: str
    module: str
    launches: int
    touches: tuple[Touch, ...]
    engine: Engine
    """Number type of its arithmetic; for a product that of its factors."""

    products: tuple[Product, ...] = ()
    flops: int = 0
    """Floating-point operations of products, convolutions and attention; 0 for what only moves numbers."""

    macs: int = 0
    """Multiply-accumulates (MACs) of the same by PyTorch's formulas, whether or not cuBLAS was called."""

    row: int = 0
    """Numbers in a row that is reduced: of softmax and normalisation."""

    is_aligned: bool = True
    """Whether all leading dimensions are multiples of 16 bytes."""

    host_bytes: int = 0
    """Bytes copied between host and device."""

    is_waiting: bool = False
    """Whether the host waits for the device."""

    @property
    def bytes_read(self) -> int:
        """Bytes of all tensors that are read."""
        return sum(touch.num_bytes for touch in self.touches if not touch.is_written)

    @property
    def bytes_written(self) -> int:
        """Bytes of all tensors that are written."""
        return sum(touch.num_bytes for touch in self.touches if touch.is_written)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What some operations add up to."""

    launches: int
    flops: int
    bytes_moved: int


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """What one step does, as the emulated card saw it. Nothing in it depends on how fast a card is."""

    operations: tuple[Operation, ...]
    num_operators: int
    """Operators that the host dispatched, views included."""

    host_time_s: float
    """Processor time of one step on this machine, in seconds."""

    input_bytes: int = 0
    """Size of a batch as the step gets it."""

    @property
    def kernel_launches(self) -> int:
        """Number of kernels launched."""
        return sum(operation.launches for operation in self.operations)

    @property
    def macs(self) -> int:
        """Multiply-accumulates (MACs) of products, convolutions and attention."""
        return sum(operation.macs for operation in self.operations)

    @property
    def bytes_moved(self) -> int:
        """Bytes that the operators read and write, each tensor once."""
        return sum(operation.bytes_read + operation.bytes_written for operation in self.operations)

    @property
    def flops_by_engine(self) -> dict[Engine, int]:
        """Floating-point operations of products, convolutions and attention by engine."""
        flops: Counter[Engine] = Counter()
        for operation in self.operations:
            flops[operation.engine] += operation.flops
        return {engine: count for engine, count in flops.items() if count}

    @property
    def flops(self) -> int:
        """All of them."""
        return sum(operation.flops for operation in self.operations)

    @property
    def arithmetic_intensity(self) -> float:
        """Floating-point operations for each byte moved."""
        return self.flops / self.bytes_moved if self.bytes_moved else 0.0

    def totals(self, kind_of: Callable[[Operation], str]) -> dict[str, Totals]:
        """Return what groups of operations add up to, such as those of a phase or a module, in order of appearance.

        Args:
            kind_of: name of an operation's group.
        """
        groups: dict[str, list[Operation]] = {}
        for operation in self.operations:
            groups.setdefault(kind_of(operation), []).append(operation)
        return {
            name: Totals(
                launches=sum(one.launches for one in group),
                flops=sum(one.flops for one in group),
                bytes_moved=sum(one.bytes_read + one.bytes_written for one in group),
            )
            for name, group in groups.items()
        }

    @property
    def host_bytes(self) -> int:
        """Bytes copied between host and device."""
        return sum(operation.host_bytes for operation in self.operations)

    @property
    def num_waits(self) -> int:
        """How often the host waits for the device."""
        return sum(operation.is_waiting for operation in self.operations)
