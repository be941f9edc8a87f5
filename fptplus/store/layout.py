"""How one image's keys and values are arranged in a feature store: as one row of bytes, in fp32, bf16 or int8.

    row    keys ─ values, each (layers, heads, n, head_dim) │ padding │ scales (int8 only), fp16 │ padding
    scale  max |x| over the n tokens / 127, for each layer, head and channel, keys and values separately

Each channel of the keys has its own range, similar for all tokens, so there is one scale per channel. The scale is
rounded to fp16 before anything is divided by it, so that rounding it adds no error.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fptplus.errors import InvalidInput
from fptplus.network.features import Features

StoreDtype = Literal["fp32", "bf16", "int8"]
TORCH_DTYPE: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
ALIGNMENT_BYTES = 64
"""Rows and scales begin at multiples of this, so that a batch of rows can be viewed as numbers without a copy."""

INT8_MAX = 127
"""Largest int8 number used; the range is symmetric, so -128 is not used."""


@dataclass(frozen=True)
class RawFeatures:
    """Keys and values of a batch as stored: views of its rows."""

    numbers: Tensor
    """Keys, then values (B, 2, layers, heads, n, head_dim), in fp32, bf16 or int8."""

    scales: Tensor | None
    """Scales (B, 2, layers, heads, head_dim) in fp16 for int8, else None."""

    def by_layer(self) -> Features:
        """Return the same as views with layers first, as the fusion modules take them."""
        parts = (part for part in (self.numbers, self.scales) if part is not None)
        return Features(*(half for part in parts for half in part.transpose(0, 2).unbind(1)))

    def keys_and_values(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Return dequantised keys and values, each (layers, B, heads, n, head_dim), in a dtype."""
        numbers = self.numbers
        if self.scales is not None:
            numbers = numbers * self.scales.unsqueeze(-2).float()
        keys, values = numbers.to(dtype).transpose(0, 2).unbind(1)
        return keys, values


@dataclass(frozen=True, kw_only=True)
class RowLayout:
    """Sizes of one image's features, and of the row that holds them."""

    layers: int
    heads: int
    tokens: int
    """n, number of important tokens kept per layer and head."""

    head_dim: int
    dtype: StoreDtype

    def __post_init__(self) -> None:
        if self.dtype not in TORCH_DTYPE:
            raise InvalidInput(f"store_dtype must be one of {', '.join(get_args(StoreDtype))}, got {self.dtype!r}.")

    @property
    def _scales_shape(self) -> tuple[int, ...]:
        return 2, self.layers, self.heads, self.head_dim

    @property
    def _numbers_bytes(self) -> int:
        count = 2 * self.layers * self.heads * self.tokens * self.head_dim
        return count * TORCH_DTYPE[self.dtype].itemsize

    @property
    def _scales_start(self) -> int:
        return _aligned(self._numbers_bytes)

    @property
    def _scales_bytes(self) -> int:
        return 2 * torch.Size(self._scales_shape).numel() if self.dtype == "int8" else 0

    @property
    def row_bytes(self) -> int:
        """Number of bytes of one image's features."""
        return _aligned(self._scales_start + self._scales_bytes)

    def pack(self, keys: Tensor, values: Tensor) -> Tensor:
        """Pack keys and values (layers, B, heads, n, head_dim) into uint8 rows (B, row_bytes), on the same device."""
        rows = torch.zeros(keys.shape[1], self.row_bytes, dtype=torch.uint8, device=keys.device)
        raw = self.unpack(rows)
        for part, source in enumerate((keys, values)):
            source = source.transpose(0, 1)
            if raw.scales is None:
                raw.numbers[:, part] = source
            else:
                raw.numbers[:, part], raw.scales[:, part] = quantise(source)
        return rows

    def unpack(self, rows: Tensor) -> RawFeatures:
        """Return the numbers and scales in rows (B, row_bytes) of uint8, as views of them."""
        batch, dtype = len(rows), TORCH_DTYPE[self.dtype]
        numbers = rows[:, : self._numbers_bytes].view(dtype)
        numbers = numbers.view(batch, 2, self.layers, self.heads, self.tokens, self.head_dim)
        if self.dtype != "int8":
            return RawFeatures(numbers, None)
        scales = rows[:, self._scales_start : self._scales_start + self._scales_bytes].view(torch.float16)
        return RawFeatures(numbers, scales.view(batch, *self._scales_shape))


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 numbers (..., n, channels) and fp16 scales (..., channels), one for the n tokens of a channel."""
    largest = torch.finfo(torch.float16).max
    scales = (x.float().abs().amax(dim=-2) / INT8_MAX).clamp(max=largest).half()
    divisors = scales.float().unsqueeze(-2)
    divisors = divisors.where(divisors > 0, 1)  # a channel too small for fp16's scales is stored as 0
    numbers = (x.float() / divisors).round_().clamp_(-INT8_MAX, INT8_MAX).to(torch.int8)
    return numbers, scales


def _aligned(num_bytes: int) -> int:
    """Round a size up to a multiple of the alignment."""
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
