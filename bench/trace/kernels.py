"""What a CUDA device does but a meta tensor does not: autocast, fused attention kernels, one-byte dropout masks.

Meta tensors take the composite path of each operator. These modes replace it with the CUDA path, below the model and
above autograd, so that the backward pass follows from it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib import import_module
from typing import Literal
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from fptplus.network.attention import FLASH_CAPABILITY, has_flash
from fptplus.network.precision import products_dtype

from .attention_kernels import choose_attention_kernel, has_gradient, run_attention_kernel

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
        F.nll_loss,
        torch.layer_norm,
        torch.group_norm,
        torch.exp,
        torch.log,
        torch.pow,
        torch.rsqrt,
        Tensor.exp,
        Tensor.log,
        Tensor.pow,
        Tensor.__pow__,
        Tensor.rsqrt,
    }
)
"""Operators that autocast runs in fp32 (`AT_FORALL_FP32`)."""

FP32_RESULT: frozenset[Callable] = frozenset(
    {
        F.softmax,
        F.log_softmax,
        torch.softmax,
        torch.log_softmax,
        torch.sum,
        torch.cumsum,
        torch.prod,
        torch.norm,
        torch.linalg.vector_norm,
        torch.linalg.matrix_norm,
        Tensor.softmax,
        Tensor.log_softmax,
        Tensor.sum,
        Tensor.cumsum,
        Tensor.prod,
        Tensor.norm,
    }
)
"""Operators that autocast asks for an fp32 result (`AT_FORALL_FP32_SET_OPT_DTYPE`)."""


class NoKernel(RuntimeError):
    """The only attention kernel that is allowed does not run on the card."""


_SOFTMAX = {
    F.softmax: torch.ops.aten._softmax,
    torch.softmax: torch.ops.aten._softmax,
    Tensor.softmax: torch.ops.aten._softmax,
    F.log_softmax: torch.ops.aten._log_softmax,
    torch.log_softmax: torch.ops.aten._log_softmax,
    Tensor.log_softmax: torch.ops.aten._log_softmax,
}


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
            return func(*args, **kwargs)  # autocast does not touch operators that write into a given tensor
        if func in LOWER_PRECISION:
            return _with_cast_arguments(self._lower, func, args, kwargs)
        if func in FP32:
            return _with_cast_arguments(_in_fp32, func, args, kwargs)
        if func in FP32_RESULT and _is_half(args[0]) and kwargs.get("dtype") is None:
            if func in _SOFTMAX and args[0].dtype == torch.float16:
                return _softmax_of_halves(func, *args, **kwargs)
            return func(*args, **kwargs | {"dtype": torch.float32})
        if func is F.cross_entropy and _is_half(args[0]):
            return _cross_entropy_of_halves(*args[:2])
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


def _is_half(leaf) -> bool:
    return _is_float(leaf) and leaf.dtype != torch.float32


def _in_fp32(leaf):
    return leaf.float() if _is_float(leaf) else leaf


def _with_cast_arguments(cast: Callable, func: Callable, args: tuple, kwargs: dict) -> Tensor:
    """Call a function with other arguments, created last first and released first first, as compiled autocast does."""
    leaves, structure = tree_flatten((args, kwargs))
    for index in reversed(range(len(leaves))):
        leaves[index] = cast(leaves[index])
    args, kwargs = tree_unflatten(leaves, structure)
    out = func(*args, **kwargs)
    del args, kwargs
    while leaves:
        del leaves[0]
    return out


def _softmax_of_halves(func: Callable, x: Tensor, dim: int = -1, *_stacklevel, **_unused) -> Tensor:
    """Return softmax or its logarithm in fp32 from fp16; one kernel does this without a copy in fp32."""
    return _SOFTMAX[func](x, dim, True)


def _cross_entropy_of_halves(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy. It asks for softmax in the type of the logits, and autocast leaves it at that."""
    return F.nll_loss(torch.ops.aten.log_softmax.int(logits, 1, logits.dtype).float(), targets)


class CudaKernels(TorchFunctionMode):
    """Fused attention and dropout as a CUDA device runs them, in the forward pass and in its recomputation.

    Args:
        attention: name of the only kernel that is allowed; with any other word, PyTorch chooses.
        compute_capability: the device's compute capability, which decides which kernels run.
        autocast_dtype: type in which a checkpointed forward pass is recomputed; None for fp32.
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
        if func is has_flash:
            return self.compute_capability >= FLASH_CAPABILITY
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
        """Run F.scaled_dot_product_attention with the kernel that the device would use."""
        kernel = choose_attention_kernel(
            self.attention,
            query.dtype,
            query.shape[-1],
            self.compute_capability,
            has_mask=attn_mask is not None,
            has_gradient=has_gradient(query, key, value),
            num_queries=query.shape[-2],
        )
        if kernel is None:
            raise NoKernel(self.attention)
        return run_attention_kernel(kernel, query, key, value, attn_mask, dropout_p, is_causal, scale)

    def _backward(self, loss: Tensor) -> None:
        """Run the backward pass under this mode, which a recomputed forward pass needs.

        PyTorch lifts a function mode while its handler runs, and `torch.autograd.backward` is handled that way. So the
        engine is called as that function calls it. A block's recomputation has its own autocast context, in which each
        weight is used once: there is nothing to keep.
        """
        dtype = self.autocast_dtype
        with self, MetaAutocast(dtype, keep_weights=False) if dtype else nullcontext():
            engine = torch.autograd.Variable._execution_engine
            engine.run_backward(
                (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
            )


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Run dropout.

    CUDA keeps one byte per number for the backward pass; the composite keeps a mask of the input's type.
    """
    if not training or p == 0:
        return input
    return torch.ops.aten.native_dropout(input, p, True)[0]


@contextmanager
def cuda_optimizers_on_meta() -> Iterator[None]:
    """Allow fused optimizers and norms of many tensors at once on meta tensors, which lists of devices exclude."""
    with ExitStack() as stack:
        for module, name in _LISTS_OF_DEVICES.items():
            module = import_module(module)  # hidden in its package by a class of the same name
            devices = [*getattr(module, name)(), "meta"]
            stack.enter_context(mock.patch.object(module, name, lambda devices=devices: devices))
        yield


_LISTS_OF_DEVICES = {
    "torch.optim.optimizer": "_get_fused_kernels_supported_devices",
    "torch.utils._foreach_utils": "_get_foreach_kernels_supported_devices",
}
"""Functions that list the devices, by their modules."""
