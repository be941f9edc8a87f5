"""Which module each block of memory was asked for by, in the forward pass and in the backward pass.

    a module's forward pass begins or ends   -> its place, from the n-th block and the n-th node of the graph on
    a node of the graph is about to run      -> the place where the forward pass made it

Blocks are counted by the allocator, nodes by autograd's sequence numbers, so nothing depends on a clock. What a module
computes again in the backward pass (checkpointing) belongs to that module.
"""

import bisect
import contextlib
import functools
import sys
import threading
import types
import weakref
from collections import namedtuple

Place = namedtuple("Place", "module line")
"""A module's name, and the user's line that called it."""

NOWHERE = Place("", "")


class ModulePlaces:
    """Places of one process's blocks, while they are followed.

    Args:
        torch: the PyTorch module.
        caller: returns the user's line that a frame was called from.
        roots: returns the modules that are not part of another one.
    """

    def __init__(self, torch, caller, roots):
        self.torch, self.caller, self.roots = torch, caller, roots
        self.is_followed, self.recomputes = False, False
        self.handles = []
        self.marks = {}
        """For each device: (number of blocks given before, place)."""
        self._threads, self._running = threading.local(), {}
        self._names = weakref.WeakKeyDictionary()
        self._sequence = getattr(torch._C._autograd, "_get_sequence_nr", None)

    def start(self):
        """Follow all modules, until stop() or until the script compiles: a compiled module warns of hooks."""
        hooks = self.torch.nn.modules.module
        self.handles.append(hooks.register_module_forward_pre_hook(self.entered))
        try:
            self.handles.append(hooks.register_module_forward_hook(self.left, always_call=True))
        except TypeError:  # before PyTorch 2.1
            self.handles.append(hooks.register_module_forward_hook(self.left))
        self.is_followed = True

    def stop(self):
        """Follow them no more."""
        self.is_followed = False
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def entered(self, module, _inputs):
        """Note that the forward pass of a module begins."""
        stack = self._own().stack
        if self._own().node is not None:
            self.recomputes = True
        place = Place(self._name(module, is_outermost=not stack), self.caller(sys._getframe(1)))
        stack.append((weakref.ref(module), place))
        self._mark(place)

    def left(self, module, _inputs, _output):
        """Note that the forward pass of a module has ended; those inside it that failed have ended too."""
        stack = self._own().stack
        while stack and stack.pop()[0]() is not module:
            pass
        self._mark(self._current())

    @contextlib.contextmanager
    def backward(self, tensors):
        """Have each node of a graph tell when it runs, and under the place where it was made.

        Args:
            tensors: what the backward pass begins at.
        """
        if not self.is_followed or self._sequence is None:
            yield
            return
        own = self._own()
        around = own.node  # set if this is inside another backward pass
        self._hook(tensors, own.sequence)
        try:
            yield
        finally:
            if around is None:
                for thread in self._running.values():
                    thread.node = None
            own.node = around
            if self.is_followed:
                self._mark(self._current())

    def _hook(self, tensors, sequence):
        """Hook all nodes below some tensors."""
        numbers = [number for number, _ in sequence]
        tensors = [tensors] if hasattr(tensors, "grad_fn") else list(tensors)
        waiting = [node for tensor in tensors if (node := getattr(tensor, "grad_fn", None)) is not None]
        seen = set(waiting)
        while waiting:
            node = waiting.pop()
            following = {one for one, _ in node.next_functions if one is not None} - seen
            seen |= following
            waiting += following
            if node.next_functions:  # not one that only stores a gradient
                at = bisect.bisect_right(numbers, node._sequence_nr()) - 1
                node.register_prehook(functools.partial(self._node_runs, sequence[at][1] if at >= 0 else NOWHERE))

    def _node_runs(self, place, _gradients):
        if self.is_followed:
            own = self._own()
            own.node = place
            self._running[threading.get_ident()] = own
            self._mark(place)

    def _own(self):
        """Return what belongs to this thread: modules in their forward pass, places by sequence number, the node."""
        if not hasattr(self._threads, "own"):
            self._threads.own = types.SimpleNamespace(stack=[], sequence=[], node=None)
        return self._threads.own

    def _current(self):
        own = self._own()
        return own.stack[-1][1] if own.stack else own.node or NOWHERE

    def _mark(self, place):
        """Note that what comes next, blocks and nodes, belongs to a place."""
        device = self.torch._C._cuda_getDevice()
        self.marks.setdefault(device, []).append((self.num_given(device), place))
        if self._sequence is not None:
            self._own().sequence.append((self._sequence(), place))

    def num_given(self, device):
        """Return the number of blocks that the allocator has given so far."""
        return self.torch._C._cuda_memoryStats(device)["allocation"]["all"]["allocated"]

    def _name(self, module, is_outermost):
        if module not in self._names:
            if is_outermost:
                self._name_all()
            self._names.setdefault(module, type(module).__name__)
        return self._names[module]

    def _name_all(self):
        for root in self.roots():
            for name, module in root.named_modules():
                self._names.setdefault(module, name or type(module).__name__)

    def by_block(self, device, num_blocks):
        """Return a function from a block's number in the recorded history to its place.

        Args:
            device: number of the device.
            num_blocks: number of blocks in its history, up to now.
        """
        before = self.num_given(device) - num_blocks
        marks = self.marks.get(device, [])
        numbers = [number - before for number, _ in marks]

        def place(block):
            at = bisect.bisect_right(numbers, block) - 1
            return marks[at][1] if at >= 0 else NOWHERE

        return place
