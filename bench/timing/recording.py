"""Record what one step does, on the emulated card (emulate/).

A dispatch mode sees each operator below autograd with its real tensors; the card itself says how many kernels it
launched and which products it handed to cuBLAS. Nothing is estimated: bytes are those of the tensors that an operator
reads and writes, each once.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.cells.macs import convolution_backward_macs, convolution_macs, macs_of
from bench.cells.module_calls import following_modules
from bench.emulate.device_state import kernel_launches, recorded_products, recording_products

from .operations import Engine, Kind, Operation, Product, StepWork, Touch

ALIGNED_BYTES = 16
"""A product loads 16 bytes at a time where every leading dimension allows it."""

_KINDS: dict[str, Kind] = {
    "mm": "product",
    "addmm": "product",
    "bmm": "product",
    "baddbmm": "product",
    "_addmm_activation": "product",
    "mv": "product",
    "addmv": "product",
    "dot": "product",
    "cudnn_convolution": "convolution",
    "convolution": "convolution",
    "convolution_backward": "convolution",
    "_softmax": "softmax",
    "_softmax_backward_data": "softmax",
    "_log_softmax": "softmax",
    "_log_softmax_backward_data": "softmax",
    "native_layer_norm": "norm",
    "native_layer_norm_backward": "norm",
    "_fused_rms_norm": "norm",
    "copy_": "copy",
    "_to_copy": "copy",
    "clone": "copy",
    "cat": "copy",
}

_WRITES_ONLY = ("copy_", "zero_", "fill_", "normal_", "uniform_", "bernoulli_", "_foreach_zero_", "_foreach_copy_")
"""Operators that do not read what they write into."""

_ENGINES: dict[torch.dtype, Engine] = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float64: "fp64",
    torch.int8: "int8",
}


_Tensors = list[Tensor | list[Tensor]]
"""Tensors of an operator; a list of many counts as one."""


def timed(step: Callable[[], object]) -> float:
    """Run a step and return the processor time that this machine took to issue it, in seconds."""
    began_s = time.process_time()
    step()
    return time.process_time() - began_s


def record_step(
    model: nn.Module, step: Callable[..., object], inputs: Iterable[Tensor] = (), *, host_time_s: float
) -> StepWork:
    """Return what a step does on this process's emulated card, where it runs once more.

    Args:
        model: whose modules are named.
        step: takes listeners that are told of each phase; it has run before.
        inputs: tensors of its batch.
        host_time_s: processor time of an earlier step that nothing recorded.
    """
    with OperationRecorder(model) as recorder:
        step(recorder.enter)
    return StepWork(
        operations=tuple(recorder.operations),
        num_operators=recorder.num_operators,
        host_time_s=host_time_s,
        input_bytes=sum(map(_bytes_of, inputs)),
    )


class OperationRecorder(TorchDispatchMode):
    """A context manager that notes every operation of a step on the emulated card.

    Args:
        model: whose modules are named.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.num_operators = 0
        """Operators that reached the device's dispatcher, views included."""

        self._model, self._phase, self._modules = model, "forward", []
        self._module_of_node: dict[int, str] = {}
        """The module in whose forward pass an autograd node was made, by the node's sequence number."""

        self._clock_bytes = 0
        """Bytes touched so far."""

        self._last_touch: dict[int, int] = {}
        """For each tensor's address, the bytes that had been touched when it was last."""

    def enter(self, phase: str) -> None:
        """Note that a phase of the step begins."""
        self._phase = phase

    def __enter__(self) -> "OperationRecorder":
        recording_products(True)
        self._following = following_modules(self._model, self._modules.append, self._leave)
        self._following.__enter__()
        self._launched = kernel_launches()
        return super().__enter__()

    def __exit__(self, *exc_info: Any) -> None:
        super().__exit__(*exc_info)
        self._following.__exit__(None, None, None)
        recording_products(False)

    def _leave(self) -> None:
        self._modules.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        before = kernel_launches()
        result = func(*args, **kwargs)
        launches = kernel_launches() - before
        self.num_operators += 1
        module = self._module()
        name = _name_of(func)
        host_bytes = _host_bytes(name, args, result) if name in _TO_HOST else 0
        if launches or host_bytes:
            self._note(func, name, args, kwargs, result, launches, host_bytes, module)
        return result

    def _module(self) -> str:
        """Return the module in its forward pass, or that whose gradient is computed."""
        if (node := torch._C._current_autograd_node()) is not None:
            return self._module_of_node.get(node._sequence_nr(), "")
        if not self._modules:
            return ""
        self._module_of_node[torch._C._autograd._get_sequence_nr() - 1] = self._modules[-1]
        return self._modules[-1]

    def _note(
        self, func, name: str, args: tuple, kwargs: dict, result: Any, launches: int, host_bytes: int, module: str
    ) -> None:
        products = tuple(Product(*numbers[:4], _engine_of(numbers[5], numbers[4])) for numbers in recorded_products())
        inputs, written = _tensors(func, name, args, kwargs, result)
        kind = _kind(name)
        engine = _ENGINES.get(_number_type(_flat([*inputs, *written])), "fp32")
        macs = _macs(name, kind, args)
        flops = sum(product.flops for product in products) if kind == "product" else 2 * macs
        if kind == "convolution" and engine == "fp32":
            engine = "tf32"
        self.operations.append(
            Operation(
                op=name,
                kind=kind,
                phase=self._phase,
                module=module,
                launches=launches,
                touches=tuple(self._touched(inputs, written)),
                engine=products[0].engine if products else engine,
                products=products,
                flops=flops,
                macs=macs,
                row=_row(name, args),
                is_aligned=all(map(_is_aligned, _flat([*inputs, *written]))) if kind == "product" else True,
                host_bytes=host_bytes,
                is_waiting=name in ("_local_scalar_dense", "nonzero"),
            )
        )

    def _touched(self, read: _Tensors, written: _Tensors) -> Iterator[Touch]:
        yield from (self._touch(tensor, is_written=False) for tensor in read)
        yield from (self._touch(tensor, is_written=True) for tensor in written)

    def _touch(self, tensor: Tensor | list[Tensor], is_written: bool) -> Touch:
        if isinstance(tensor, list):
            touch = Touch(sum(map(_bytes_of, tensor)), is_written)
        else:
            place, since = tensor.untyped_storage().data_ptr(), None
            if not is_written and place in self._last_touch:
                since = self._clock_bytes - self._last_touch[place]
            touch = Touch(_bytes_of(tensor), is_written, since)
            self._last_touch[place] = self._clock_bytes + touch.num_bytes
        self._clock_bytes += touch.num_bytes
        return touch


_TO_HOST = ("_local_scalar_dense", "copy_", "_to_copy")
"""Operators that may copy between host and device."""


@cache
def _name_of(func: Any) -> str:
    return func._schema.name.partition("::")[2]


def _kind(name: str) -> Kind:
    if name in _KINDS:
        return _KINDS[name]
    if "scaled_dot_product" in name or "attention" in name:
        return "attention"
    return "optimizer" if name.startswith(("_foreach", "_fused_adam", "_fused_sgd")) else "elementwise"


def _engine_of(compute_type: int, number_type: int) -> Engine:
    """Return the engine of a product from cuBLAS's compute type and number type (cublas_api.h, library_types.h)."""
    if compute_type == 77:
        return "tf32"
    return {0: "fp32", 1: "fp64", 2: "fp16", 14: "bf16", 3: "int8", 28: "fp8", 29: "fp8"}.get(number_type, "fp32")


def _number_type(tensors: Iterable[Tensor]) -> torch.dtype:
    types = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    return min(types, key=lambda one: one.itemsize, default=torch.float32)


def _tensors(func, name: str, args: tuple, kwargs: dict, result: Any) -> tuple[_Tensors, _Tensors]:
    """Return the device's tensors that an operator reads, and those that it writes."""
    read, written, places = [], [], set()
    for index, argument in enumerate(func._schema.arguments):
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        if not (tensors := _on_device(value)):
            continue
        changes = argument.alias_info is not None and argument.alias_info.is_write
        if changes:
            written += tensors
            places.update(id(one) for one in tensors)
        if not (changes and (name in _WRITES_ONLY or argument.is_out)):
            read += tensors
    written += [one for one in _on_device(result) if id(one) not in places]
    return read, written


def _on_device(value: Any) -> _Tensors:
    """Return the tensors of a value that lie on the device and are not empty."""
    if isinstance(value, Tensor):
        return [value] if value.is_cuda and value.numel() else []
    if isinstance(value, (list, tuple)):
        tensors = [one for one in value if isinstance(one, Tensor) and one.is_cuda and one.numel()]
        return [tensors] if len(tensors) > _MANY else tensors
    return []


_MANY = 8
"""Longest list whose tensors are noted one by one."""


def _flat(tensors: _Tensors) -> Iterator[Tensor]:
    for one in tensors:
        yield from one if isinstance(one, list) else (one,)


def _bytes_of(tensor: Tensor) -> int:
    """Return the bytes of a tensor's numbers; what is expanded lies there once."""
    numbers = tensor.numel()
    if 0 in (stride := tensor.stride()):
        numbers = prod(n for n, s in zip(tensor.shape, stride, strict=True) if s)
    return numbers * tensor.element_size()


def _host_bytes(name: str, args: tuple, result: Any) -> int:
    if name == "_local_scalar_dense":
        return args[0].element_size() if args[0].is_cuda else 0
    source, target = (args[1], args[0]) if name == "copy_" else (args[0], result)
    return source.numel() * source.element_size() if source.is_cuda != target.is_cuda else 0


def _sizes(argument: Any) -> Any:
    return argument.shape if isinstance(argument, Tensor) else argument


def _row(name: str, args: tuple) -> int:
    match name:
        case "_softmax" | "_log_softmax":
            return args[0].shape[args[1]]
        case "_softmax_backward_data" | "_log_softmax_backward_data":
            return args[0].shape[args[2]]
        case "native_layer_norm":
            return prod(args[1])
        case "native_layer_norm_backward":
            return prod(args[2])
    return 0


def _is_aligned(tensor: Tensor) -> bool:
    """Whether a matrix's leading dimension is a multiple of 16 bytes; a vector has none."""
    if tensor.dim() < 2:
        return True
    leading = max((s for n, s in zip(tensor.shape[-2:], tensor.stride()[-2:], strict=True) if n > 1), default=1)
    return leading * tensor.element_size() % ALIGNED_BYTES == 0


def _macs(name: str, kind: Kind, args: tuple) -> int:
    if kind == "convolution":
        count = convolution_backward_macs if name == "convolution_backward" else convolution_macs
        return count([_sizes(one) for one in args], args)
    if kind in ("product", "attention"):
        return macs_of(name, [_sizes(one) for one in args if not isinstance(one, torch.dtype)])
    return 0
