"""Trace every allocation of a training step without running it: `meta` tensors, one dispatch mode, weak references.

    model, batch (meta) ─ TrainingStep ×2 ─ StorageTracer ─ events: (+bytes | free, phase, kind, module) in order
                                                 └ rules: what CUDA operators take besides their results

Two steps are traced: the optimizer's state appears in the first, so the second looks like every further step. A third
step repeats the second.
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bench.cells.anatomy import Allocation, Kind
from bench.cells.module_calls import following_modules
from fptplus.network.features import Inputs, tensors_of
from fptplus.training.step import Phase, TrainingStep

from .accumulation import holders_of_a_sole_gradient, sum_in_place
from .rules import Rule, Scratch, Target
from .shape_memory import ShapeMemory

_WITHOUT_META_FORM = (torch.ops.aten.bmm.dtype_out,)
"""Operators that write into given tensors, which some supported releases of PyTorch cannot call on meta tensors."""


@dataclass(frozen=True)
class Event:
    """An allocation (`is_free` False) or its release, in program order."""

    allocation: Allocation
    is_free: bool


@dataclass
class Trace:
    """Everything that the predictor needs to know about a training step."""

    events: list[Event] = field(default_factory=list)
    step_starts: list[int] = field(default_factory=list)
    """Index of the first event of each traced step."""

    train_step_macs: int = 0
    """Multiply-accumulates (MACs) of one whole step, the last, for all images of the batch."""


class StorageTracer(TorchDispatchMode):
    """Records each meta storage as it is created and freed, and counts the MACs of the operators.

    It holds only weak references, so that nothing lives longer than it would without the tracer.
    """

    def __init__(self, target: Target | None = None, rules: Iterable[Rule] = ()) -> None:
        super().__init__()
        self.trace = Trace()
        self.step, self.phase = -1, "before"
        self.target = target
        self._rules: dict[object, list[Rule]] = {}
        for rule in rules:
            for op in rule.ops:
                self._rules.setdefault(op, []).append(rule)
        self._kept_scratch: set[tuple[str, bool]] = set()
        self._modules: list[str] = []
        self._sole_holders = holders_of_a_sole_gradient()
        self._call = ShapeMemory()
        self._live: dict[int, tuple[weakref.ref, Allocation]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():  # a mode over functions has had its say before an operator is called
            return self._dispatch(func, args, kwargs or {})

    def _dispatch(self, func, args, kwargs):
        if self.phase == "backward" and (total := sum_in_place(func, args, self._sole_holders)) is not None:
            return total
        out = kwargs["out"] if func in _WITHOUT_META_FORM else self._call(func, args, kwargs)
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            counted = (argument for argument in args if not isinstance(argument, torch.dtype))  # the products' operands
            self.trace.train_step_macs += count(*counted, **kwargs, out_val=out) // 2
        rules = self._rules.get(func, ())
        scratch = [(rule.name, one) for rule in rules for one in rule(func, args, out, self.target)]
        first = self._take(scratch, stage=0) if scratch else ()
        for leaf in (out,) if isinstance(out, Tensor) else tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.is_meta:
                self.note(leaf, op=func._overloadpacket.__name__)
        if scratch:
            self._give_back(first)
            for stage in (1, 2):
                self._give_back(self._take(scratch, stage=stage))
        return out

    def _take(self, scratch: list[tuple[str, Scratch]], *, stage: int) -> list[Allocation]:
        """Record memory that an operator takes besides its results, by rule; return what is to be given back."""
        taken = []
        for rule, one in scratch:
            kept_as = one.kept_as and (one.kept_as, self.phase == "backward")  # autograd runs in its own thread
            if one.stage != stage or kept_as in self._kept_scratch:
                continue
            allocation = self._allocation(one.num_bytes, "temporary", rule)
            self.trace.events.append(Event(allocation, is_free=False))
            if kept_as is None:
                taken.append(allocation)
            else:
                self._kept_scratch.add(kept_as)
        return taken

    def _give_back(self, taken: list[Allocation]) -> None:
        """Record the release of scratch memory, last first."""
        self.trace.events.extend(Event(allocation, is_free=True) for allocation in reversed(taken))

    def note(self, tensor: Tensor, *, op: str, kind: Kind | None = None) -> None:
        """Record the tensor's storage if it is new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        allocation = self._allocation(storage.nbytes(), kind, op)
        self.trace.events.append(Event(allocation, is_free=False))
        self._live[key] = weakref.ref(storage, partial(self._died, key)), allocation

    def _allocation(self, num_bytes: int, kind: Kind | None, op: str) -> Allocation:
        return Allocation(
            num_bytes=num_bytes,
            step=self.step,
            phase=self.phase,
            kind=kind,
            recomputed=self.phase == "backward" and torch.is_grad_enabled(),
            op=op,
            module=self._modules[-1] if self._modules else "",
        )

    def _died(self, key: int, _reference: weakref.ref) -> None:
        _, allocation = self._live.pop(key)
        self.trace.events.append(Event(allocation, is_free=True))

    def begin_step(self) -> None:
        """Note that the next operators belong to a new training step."""
        self.step += 1
        self.trace.step_starts.append(len(self.trace.events))
        self.trace.train_step_macs = 0

    def begin_phase(self, phase: Phase) -> None:
        """Note that a phase begins; what outlives the forward pass is kept for the backward pass."""
        if phase == "backward":
            for allocation in self.live():
                if allocation.phase in ("forward", "loss") and allocation.kind is None:
                    allocation.kind = "activations"
        self.phase = phase

    def mark(self, tensors: Iterable[Tensor], kind: Kind) -> None:
        """Set the kind of the storages of these tensors."""
        for tensor in tensors:
            if entry := self._live.get(tensor.untyped_storage()._cdata):
                entry[1].kind = kind

    def stop(self) -> Trace:
        """Return the finished trace; what is freed from now on does not belong to it."""
        self._live.clear()
        return self.trace

    def live(self) -> Iterator[Allocation]:
        """Yield the allocations that have not been released."""
        return (allocation for _, allocation in self._live.values())

    @contextmanager
    def naming_modules(self, model: nn.Module) -> Iterator[None]:
        """Note in each allocation which module of the model makes it in its forward pass."""
        with following_modules(model, self._modules.append, self._modules.pop):
            yield


@contextmanager
def _gradients_marked(tracer: StorageTracer, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Mark each gradient as it is accumulated, so that one freed later is still known as a gradient."""

    def mark(parameter: Tensor) -> None:
        tracer.mark([parameter.grad], "gradients")

    hooks = [p.register_post_accumulate_grad_hook(mark) for p in parameters if p.requires_grad]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def trace_training(
    step: TrainingStep,
    inputs: Inputs,
    targets: Tensor,
    *,
    target: Target | None = None,
    rules: Iterable[Rule] = (),
    steps: int = 2,
) -> Trace:
    """Trace a training step on meta tensors.

    Args:
        step: the step of a model whose parameters are on the meta device.
        inputs, targets: a batch on the meta device.
        target: target of the rules' predictions; needed if there are any rules.
        rules: rules for the memory that operators take besides their results.
        steps: number of steps to trace; at least 2, for the optimizer's state.

    Returns:
        The events from the weights' allocation to the end of the last step.
    """
    tracer = _tracer_after_moving(step.model, [*tensors_of(inputs), targets], target, rules)
    if step.averaged is not None:
        for name, tensor in _in_order_of_moving(step.averaged.module):
            tracer.note(tensor, op=f"moving average of {name}", kind="weights")
    with _gradients_marked(tracer, list(step.model.parameters())), tracer.naming_modules(step.model), tracer:
        for _ in range(steps):
            tracer.begin_step()
            step(inputs, targets, tracer.begin_phase)
            _settle_kinds(tracer)
        trace = tracer.stop()
    repeat_last_step(trace)
    return trace


def repeat_last_step(trace: Trace) -> None:
    """Append the last step once more: only from the third step on do blocks lie where every further step finds them.

    What the step releases from the one before, its repetition releases from the step itself. A step that keeps
    different memory than the one before it is not repeated.
    """
    start = trace.step_starts[-1]
    step = trace.events[start:]
    released = {event.allocation for event in step if event.is_free}
    made = [event.allocation for event in step if not event.is_free]
    kept = [allocation for allocation in made if allocation not in released]
    held = [event.allocation for event in trace.events[:start] if not event.is_free and event.allocation in released]
    if [one.num_bytes for one in held] != [one.num_bytes for one in kept]:
        return
    now = dict(zip(held, kept, strict=True)) | {one: replace(one, step=one.step + 1) for one in made}
    trace.step_starts.append(len(trace.events))
    trace.events.extend(Event(now[event.allocation], event.is_free) for event in step)


def trace_inference(model: nn.Module, inputs: Inputs, target: Target, rules: Iterable[Rule]) -> Trace:
    """Trace one forward pass without gradients on meta tensors; for the arguments, see trace_training."""
    tracer = _tracer_after_moving(model, tensors_of(inputs), target, rules)
    with tracer.naming_modules(model), tracer, torch.no_grad():
        tracer.begin_step()
        tracer.begin_phase("forward")
        results = model(*inputs)
    _settle_kinds(tracer)
    del results
    return tracer.stop()


def _tracer_after_moving(
    model: nn.Module, inputs: Iterable[Tensor], target: Target | None, rules: Iterable[Rule]
) -> StorageTracer:
    """Return a tracer that has seen a model, and then its inputs, being moved to the device."""
    tracer = StorageTracer(target, rules)
    for name, tensor in _in_order_of_moving(model):
        tracer.note(tensor, op=name, kind="weights")
    for index, tensor in enumerate(inputs):
        tracer.note(tensor, op=f"input {index}", kind="inputs")
    return tracer


def _in_order_of_moving(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers with their names, in the order in which `module.to(device)` allocates them."""
    for name, child in module.named_children():
        yield from _in_order_of_moving(child, f"{prefix}{name}.")
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        yield f"{prefix}{name}", tensor


def _settle_kinds(tracer: StorageTracer) -> None:
    """Set the kinds at the end of a step: what the update left behind is optimizer state, the rest was temporary."""
    for allocation in tracer.live():
        if allocation.kind is None and allocation.phase == "optimizer":
            allocation.kind = "optimizer"
    for event in tracer.trace.events:
        if event.allocation.kind is None:
            event.allocation.kind = "activations" if event.allocation.recomputed else "temporary"
