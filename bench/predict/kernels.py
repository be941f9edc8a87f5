"""What a CUDA device does and a meta tensor does not: autocast, fused attention kernels, one-byte dropout masks.

Meta tensors take the composite path of each operator. These modes put the CUDA path in its place, below the model and
above autograd, so that the backward pass follows from it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Literal
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from fptplus.precision import products_dtype

AttentionKernel = Literal["math", "efficient", "flash", "cudnn"]

LOWER_PRECISION: frozenset[Callable] = frozenset(
    {
        F.linear,
        F.conv2d,
        F.scaled_dot_product_attention,
        torch.matmul,
        torch.mm,
        torch.bmm,
        torch.addmm,
        torch.baddbmm,
        torch.einsum,
        Tensor.matmul,
        Tensor.__matmul__,
        Tensor.__rmatmul__,
        Tensor.mm,
        Tensor.bmm,
    }
)
"""Operators that autocast runs in half precision (PyTorch, `AT_FORALL_LOWER_PRECISION_FP`)."""

FP32: frozenset[Callable] = frozenset(
    {
        F.layer_norm,
        F.group_norm,
        F.softmax,
        F.log_softmax,
        F.cross_entropy,
        F.nll_loss,
        torch.layer_norm,
        torch.group_norm,
        torch.softmax,
        torch.log_softmax,
        torch.exp,
        torch.log,
        torch.pow,
        torch.rsqrt,
        torch.sum,
        torch.cumsum,
        torch.prod,
        torch.norm,
        torch.linalg.vector_norm,
        torch.linalg.matrix_norm,
        Tensor.softmax,
        Tensor.log_softmax,
        Tensor.exp,
        Tensor.log,
        Tensor.pow,
        Tensor.__pow__,
        Tensor.rsqrt,
        Tensor.sum,
        Tensor.cumsum,
        Tensor.prod,
        Tensor.norm,
    }
)
"""Operators that autocast runs in fp32 (`AT_FORALL_FP32`, `AT_FORALL_FP32_SET_OPT_DTYPE`)."""

WIDEST: frozenset[Callable] = frozenset({torch.cat, torch.stack})
"""Operators whose arguments autocast casts to the widest of their types (`AT_FORALL_PROMOTE`)."""


class MetaAutocast(TorchFunctionMode):
    """`torch.autocast("cuda", ...)` for meta tensors.

    Like PyTorch, it keeps the half-precision copy of a weight that has a gradient until the context ends, and casts a
    frozen weight anew at each use.

    Args:
        dtype: bfloat16 or float16.
        keep_weights: False to keep no copies.
    """

    def __init__(self, dtype: torch.dtype, *, keep_weights: bool = True) -> None:
        super().__init__()
        self.dtype, self.keep_weights = dtype, keep_weights
        self._cast_weights: dict[int, Tensor] = {}

    def __exit__(self, *exc_info) -> None:
        self._cast_weights.clear()
        super().__exit__(*exc_info)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is products_dtype:
            return self.dtype
        if kwargs.get("out") is not None:
            return func(*args, **kwargs)  # autocast leaves operators alone that write into a given tensor
        if func in LOWER_PRECISION:
            args, kwargs = tree_map(self._lower, (args, kwargs))
        elif func in FP32:
            args, kwargs = tree_map(lambda leaf: leaf.float() if _is_float(leaf) else leaf, (args, kwargs))
        elif func in WIDEST:
            dtypes = [leaf.dtype for leaf in tree_leaves(args) if _is_float(leaf)]
            widest = torch.float32 if torch.float32 in dtypes else self.dtype
            args = tree_map(lambda leaf: leaf.to(widest) if _is_float(leaf) else leaf, args)
        return func(*args, **kwargs)

    def _lower(self, leaf):
        if not _is_float(leaf) or leaf.dtype == self.dtype:
            return leaf
        if not (self.keep_weights and leaf.requires_grad and leaf.is_leaf and leaf._base is None):
            return leaf.to(self.dtype)
        if id(leaf) not in self._cast_weights:
            self._cast_weights[id(leaf)] = leaf.to(self.dtype)
        return self._cast_weights[id(leaf)]


def _is_float(leaf) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dtype != torch.float64


class CudaKernels(TorchFunctionMode):
    """Fused attention and dropout as a CUDA device runs them, in the forward pass and where it is run again.

    Args:
        attention: `sdpa` to choose as PyTorch does, or the name of a kernel.
        compute_capability: of the device; it decides on cuDNN's kernel.
        autocast_dtype: what a checkpointed forward is recomputed in; None for fp32.
    """

    def __init__(
        self,
        attention: Literal["eager", "sdpa", "flash", "efficient"],
        compute_capability: tuple[int, int] = (8, 6),
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.attention, self.autocast_dtype = attention, autocast_dtype
        self.compute_capability = compute_capability

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is Tensor.backward:
            return self._backward(args[0])
        return func(*args, **kwargs)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> Tensor:
        """F.scaled_dot_product_attention by the kernel that the device would use."""
        head_dim = query.shape[-1]
        kernel = choose_attention_kernel(
            self.attention, query.dtype, head_dim, attn_mask is not None, self.compute_capability
        )
        scale = scale or head_dim**-0.5
        return run_attention_kernel(kernel, query, key, value, attn_mask, dropout_p, is_causal, scale)

    def _backward(self, loss: Tensor) -> None:
        """PyTorch lifts function modes while it runs a function; a recomputed forward needs them back.

        `torch.autograd.backward` is such a function itself, hence the engine is called as it does. A block's
        recomputation has an autocast context of its own, in which each weight is used once: nothing to keep.
        """
        dtype = self.autocast_dtype
        with self, MetaAutocast(dtype, keep_weights=False) if dtype else nullcontext():
            engine = torch.autograd.Variable._execution_engine
            engine.run_backward(
                (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
            )


def choose_attention_kernel(
    attention: str, dtype: torch.dtype, head_dim: int, has_mask: bool, compute_capability: tuple[int, int]
) -> AttentionKernel:
    """The kernel that scaled_dot_product_attention picks.

    Half precision without a mask goes to cuDNN from compute capability 9 on (head widths of 8, 16, ... 128) and to
    flash from 8 on; all else to the efficient kernel. Head widths that its alignment excludes fall back to `math`, but
    flash pads them.
    """
    half = dtype in (torch.bfloat16, torch.float16)
    if attention == "sdpa" and half and not has_mask:
        if compute_capability >= (9, 0) and head_dim % 8 == 0 and head_dim <= 128:
            return "cudnn"
        if compute_capability >= (8, 0) and head_dim <= 256:
            return "flash"
    if attention == "flash":
        return "flash"
    return "efficient" if head_dim % (8 if half else 4) == 0 else "math"


def run_attention_kernel(
    kernel: AttentionKernel,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """scaled_dot_product_attention through the aten operator of one kernel; shapes as there."""
    keeps_log_sum_exp = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    match kernel:
        case "flash":
            head_dim = query.shape[-1]
            query, key, value = (F.pad(t, (0, -head_dim % 8)) if head_dim % 8 else t for t in (query, key, value))
            flash = torch.ops.aten._scaled_dot_product_flash_attention
            return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0][..., :head_dim]
        case "cudnn":
            cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention
            return cudnn(query, key, value, None, keeps_log_sum_exp, dropout_p, is_causal, False, scale=scale)[0]
        case "efficient":
            efficient = torch.ops.aten._scaled_dot_product_efficient_attention
            return efficient(query, key, value, attn_mask, keeps_log_sum_exp, dropout_p, is_causal, scale=scale)[0]
    scores = (query * scale) @ key.transpose(-2, -1)
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(dim=-1) @ value


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """CUDA keeps one byte a number for the backward pass, where the composite keeps a mask of the input's type."""
    if not training or p == 0:
        return input
    return torch.ops.aten.native_dropout(input, p, True)[0]


@contextmanager
def fused_optimizers_on_meta() -> Iterator[None]:
    """Let fused optimizers take meta tensors: their kernels have a meta form, but a list of devices keeps it out."""
    module = import_module("torch.optim.optimizer")  # hidden from `torch.optim` by the class of that name
    devices = [*module._get_fused_kernels_supported_devices(), "meta"]
    with mock.patch.object(module, "_get_fused_kernels_supported_devices", lambda: devices):
        yield
