"""Change how an unchanged script trains, to see what memory that saves: EMULATED_CHANGES lists the changes.

Each is what its users would write themselves. Each tells what it has done to the script, or why it could do nothing.
"""

import contextlib
import functools
import weakref


def start(torch, names):
    """Return the changes of a process that has just imported PyTorch, by name.

    Args:
        torch: the PyTorch module.
        names: names of changes (CHANGES).
    """
    changes = {name: CHANGES[name](torch) for name in names}
    _WhenTraining(torch, [change for change in changes.values() if hasattr(change, "training_begins")])
    return changes


class _Change:
    """A change.

    Args:
        torch: the PyTorch module.
    """

    reason = "no module was called with gradients"
    """Reason why nothing was changed, as long as nothing was."""

    done = ""
    """What was changed."""

    def __init__(self, torch):
        self.torch = torch


class _WhenTraining:
    """Tells changes of each outermost module before its first forward pass with gradients, or before it is compiled."""

    def __init__(self, torch, changes):
        self.torch, self.changes, self.told = torch, changes, weakref.WeakSet()
        if changes:
            self.handle = torch.nn.modules.module.register_module_forward_pre_hook(self.called)
            compile_it = torch.compile

            @functools.wraps(compile_it)
            def watched(*arguments, **options):
                self.handle.remove()  # a compiled module warns of hooks
                if arguments and isinstance(arguments[0], torch.nn.Module):
                    self.tell(arguments[0])
                return compile_it(*arguments, **options)

            torch.compile = watched

    def called(self, module, _inputs):
        """Note that a module is called."""
        if self.torch.is_grad_enabled():
            self.tell(module)

    def tell(self, root):
        """Tell all changes of a module, once."""
        if root not in self.told:
            self.told.update(root.modules())
            for change in self.changes:
                if not change.done:
                    change.training_begins(root)


class Checkpointing(_Change):
    """Gradient checkpointing: by the model's own switch if it has one, else of each repeated block."""

    def training_begins(self, root):
        """Switch it on."""
        if any(self._own_switch(module) for module in root.modules()):
            return
        if self.reason == Checkpointing.ALREADY:
            return
        blocks = dict(_repeated_blocks(self.torch, root))
        for block in blocks.values():
            block.forward = functools.partial(_checkpointed, block.forward)
        if blocks:
            kinds = ", ".join(sorted({type(block).__name__ for block in blocks.values()}))
            self.done = f"torch.utils.checkpoint around each of {len(blocks)} {kinds}"
        else:
            self.reason = "no repeated block was found: two or more modules of one shape in a Sequential or ModuleList"

    ALREADY = "the model checkpoints already"

    def _own_switch(self, module):
        """Whether a module has a switch, and it was switched on."""
        is_on = _first(module, "is_activation_checkpointing", "is_gradient_checkpointing", "grad_checkpointing")
        if is_on is True:
            self.reason = self.ALREADY
            return False
        if getattr(module, "supports_gradient_checkpointing", False):  # Hugging Face
            name = next(name for name in _ENABLES if hasattr(module, name))
            getattr(module, name)({"use_reentrant": False})
            self.done = f"model.{name}()"
        elif getattr(module, "grad_checkpointing", None) is False and hasattr(module, "set_grad_checkpointing"):  # timm
            with contextlib.suppress(AssertionError):  # that this model has no such thing
                module.set_grad_checkpointing(True)
                self.done = "model.set_grad_checkpointing()"
        return bool(self.done)


_ENABLES = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
"""Names of the switch in Transformers, from the newest on."""


def _first(module, *names):
    """Return the first of some attributes that a module has."""
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)


def _checkpointed(forward, *inputs, **named):
    import torch
    from torch.utils.checkpoint import checkpoint

    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, **named)


def _repeated_blocks(torch, module, name=""):
    """Yield the outermost modules with parts of their own of which a container has two or more of one shape."""
    if isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)):
        shapes = [(type(child), *(p.shape for p in child.parameters())) for child in module if _has_parts(child)]
        classes = {shape[0] for shape in shapes if shapes.count(shape) > 1}
        if classes:
            yield from ((f"{name}.{key}", child) for key, child in module._modules.items() if type(child) in classes)
            return
    for key, child in module.named_children():
        yield from _repeated_blocks(torch, child, f"{name}.{key}")


def _has_parts(module):
    return next(module.children(), None) is not None and next(module.parameters(), None) is not None


class FusedAttention(_Change):
    """Attention by PyTorch's scaled_dot_product_attention, where a switch of its library asks for that."""

    reason = (
        "no attention with a switch was found: timm's fused_attn, Hugging Face's attn_implementation, or "
        "torch.nn.MultiheadAttention that returns weights; attention written out by hand has none"
    )
    ALREADY = "the script's attention is fused already"

    def training_begins(self, root):
        """Throw the switches of all attention modules."""
        switched, fused = {}, 0
        for module in root.modules():
            if getattr(module, "fused_attn", None) is False:
                module.fused_attn = True
                switched["fused_attn = True"] = switched.get("fused_attn = True", 0) + 1
            elif getattr(module, "fused_attn", None) is True:
                fused += 1
            elif isinstance(module, self.torch.nn.MultiheadAttention):
                module.forward = functools.partial(self._without_weights, module.forward)
            elif getattr(module, "_supports_sdpa", False) and hasattr(module, "config"):
                name = getattr(module.config, "_attn_implementation", None)
                if name == "eager":
                    _set_sdpa(module)
                    switched["attn_implementation='sdpa'"] = 1
                else:
                    fused += name is not None
        self.done = "; ".join(f"{what} in {count} modules" if count > 1 else what for what, count in switched.items())
        if fused:
            self.reason = self.ALREADY

    def _without_weights(self, forward, *inputs, **named):
        if not (inputs[4:5] or (named.get("need_weights", True),))[0]:
            self.reason = self.ALREADY
            return forward(*inputs, **named)
        self.done = "need_weights=False for torch.nn.MultiheadAttention"
        if inputs[4:5]:
            return forward(*inputs[:4], False, *inputs[5:], **named)
        return forward(*inputs, **{**named, "need_weights": False})


def _set_sdpa(model):
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("sdpa")
    else:
        model.config._attn_implementation = "sdpa"


class Autocast(_Change):
    """Forward pass and loss under bf16 autocast, the backward pass and the optimizer outside."""

    def __init__(self, torch):
        super().__init__(torch)
        self.context, self.depth = None, 0
        hooks = torch.nn.modules.module
        self.handles = [hooks.register_module_forward_pre_hook(self.entered)]
        try:
            self.handles.append(hooks.register_module_forward_hook(self.left, always_call=True))
        except TypeError:  # before PyTorch 2.1
            self.handles.append(hooks.register_module_forward_hook(self.left))
        for name in ("backward", "grad"):
            setattr(torch.autograd, name, self._ends_before(getattr(torch.autograd, name)))
        compile_it = torch.compile

        @functools.wraps(compile_it)
        def watched(*arguments, **options):
            self._give_up("the script compiles its model, whose calls cannot be put under autocast from outside")
            return compile_it(*arguments, **options)

        torch.compile = watched

    def _ends_before(self, function):
        @functools.wraps(function)
        def watched(*arguments, **options):
            self._exit()
            return function(*arguments, **options)

        return watched

    def _give_up(self, reason):
        self._exit()
        self.done, self.reason = "", reason
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def entered(self, module, _inputs):
        """Begin autocast before an outermost module, unless the script has begun one."""
        torch = self.torch
        if _in_backward(torch):  # computed again, under what was in force before
            return
        if self.context is None and _is_autocast(torch):
            self._give_up("the script has autocast already")
        elif self.context is not None and _autocasts(torch) > 1:
            self._give_up("the model has autocast already")
        elif self.context is None:
            kinds = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
            if kinds and torch.float32 not in kinds:
                self._give_up(f"the weights are {str(kinds.pop()).removeprefix('torch.')} already")
                return
            self.context = torch.autocast("cuda", torch.bfloat16)
            self.context.__enter__()
            self.outermost = weakref.ref(module)
            if torch.is_grad_enabled():
                self.done = "torch.autocast('cuda', torch.bfloat16) around forward pass and loss"

    def left(self, module, _inputs, _output):
        """End it after an outermost module that is called without gradients; no loss follows."""
        if self.context is not None and self.outermost() is module and not self.torch.is_grad_enabled():
            self._exit()

    def _exit(self):
        if self.context is not None:
            context, self.context = self.context, None
            context.__exit__(None, None, None)


def _is_autocast(torch):
    try:
        return torch.is_autocast_enabled("cuda")
    except TypeError:  # before PyTorch 2.4
        return torch.is_autocast_enabled()


def _autocasts(torch):
    """Return how many autocasts are around the current call."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def _in_backward(torch):
    return torch._C._current_graph_task_id() != -1


class HalfBatches(_Change):
    """Half of each DataLoader's batch."""

    reason = "the command has no option for the batch size, and the script has no DataLoader with one"

    def __init__(self, torch):
        super().__init__(torch)
        from torch.utils.data import DataLoader

        begin, halved = DataLoader.__init__, {}

        @functools.wraps(begin)
        def begin_with_half(loader, dataset, batch_size=1, *arguments, **named):
            known = id(dataset), batch_size
            if named.get("batch_sampler") is None and batch_size is not None and known not in halved:
                if batch_size > 1:
                    batch_size //= 2
                    halved[id(dataset), batch_size] = dataset  # kept, so that its identity stays its own
                    self.done = "half of each DataLoader's batch"
                else:
                    self.reason = "the batch is one sample"
            return begin(loader, dataset, batch_size, *arguments, **named)

        DataLoader.__init__ = begin_with_half


class HalfSteps(_Change):
    """Every second step of an optimizer and the zero_grad that follows are left out, so that gradients add up."""

    reason = "no optimizer of torch.optim has stepped"

    def __init__(self, torch):
        super().__init__(torch)
        optimizer, module = torch.optim.Optimizer, torch.nn.Module
        self.waiting = weakref.WeakSet()
        hook = optimizer.profile_hook_step

        def profile_hook_step(step):
            stepped = hook(step)

            @functools.wraps(stepped)
            def every_second(optimizer, *arguments, **named):
                self.done = "an optimizer step every second batch"
                if optimizer in self.waiting:
                    self.waiting.discard(optimizer)
                    return stepped(optimizer, *arguments, **named)
                self.waiting.add(optimizer)
                return arguments[0]() if arguments and callable(arguments[0]) else None

            return every_second

        optimizer.profile_hook_step = staticmethod(profile_hook_step)
        for owner in (optimizer, module):
            owner.zero_grad = self._unless_waiting(owner.zero_grad)

    def _unless_waiting(self, zero_grad):
        @functools.wraps(zero_grad)
        def zero_grad_unless_waiting(owner, *arguments, **named):
            if not self.waiting:
                zero_grad(owner, *arguments, **named)

        return zero_grad_unless_waiting


class FusedOptimizer(_Change):
    """The optimizer's fused implementation; if it has none, a parameter at a time."""

    reason = "no optimizer of torch.optim was created"

    def __init__(self, torch):
        super().__init__(torch)
        optimizer = torch.optim.Optimizer
        begin = optimizer.__init__

        @functools.wraps(begin)
        def begin_fused(made, params, defaults):
            name = type(made).__name__
            if defaults.get("fused") or defaults.get("foreach") is False:
                self.reason = f"{name} is {'fused' if defaults.get('fused') else 'a parameter at a time'} already"
            elif "fused" in defaults:
                defaults = {**defaults, "fused": True, "foreach": None}
                made._step_supports_amp_scaling = True
                self.done = f"{name}(fused=True)"
            elif "foreach" in defaults:
                defaults = {**defaults, "foreach": False}
                self.done = f"{name}(foreach=False); it has no fused implementation"
            else:
                self.reason = f"{name} has neither a fused nor a foreach implementation"
            begin(made, params, defaults)

        optimizer.__init__ = begin_fused


CHANGES = {
    "checkpointing": Checkpointing,
    "fused_attention": FusedAttention,
    "autocast": Autocast,
    "half_batches": HalfBatches,
    "half_steps": HalfSteps,
    "fused_optimizer": FusedOptimizer,
}
