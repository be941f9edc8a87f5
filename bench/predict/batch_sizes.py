"""Memory of a cell at many batch sizes, with one real training step of each in place of three.

What that step asks of PyTorch's allocator is written down (emulate/requests.py). Then an empty allocator is asked for
what the first steps of a training ask for, and its counters are read: the same bytes in half the time.
"""

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from bench.cells.anatomy import Peak
from bench.cells.building import build_on
from bench.cells.config import CellConfig
from bench.cells.work import batch_without_values, make_work
from bench.emulate.requests import Heard, Listener, Training, UnlikeSteps, ask, give_back, take
from fptplus.network.features import Inputs, tensors_of

from .emulated import NUM_STEPS, WARMUP_STEPS, StepFails, prepared, read_peak


def peaks_of(cell: CellConfig, batch_sizes: Sequence[int], *, is_checked: bool) -> list[Peak | None]:
    """Return the counters of a training cell at several batch sizes on this process's card.

    Args:
        cell: the cell, of any batch size.
        batch_sizes: the batch sizes, three or more.
        is_checked: whether the first batch size also takes all its steps, which must give the same.

    Returns:
        The counters after three steps at each batch size; None where PyTorch fails in the step.

    Raises:
        UnlikeSteps: if memory cannot be found in this way.
        StepFails: if PyTorch fails in the step at the first batch size.
    """
    gc.disable()  # what it would free in the middle of a step is no request of the step
    try:
        rehearsal = _Rehearsal(replace(cell, device="cuda"), batch_sizes[0])
        real = rehearsal.open(NUM_STEPS if is_checked else 1)
        for batch_size in batch_sizes[1:]:
            rehearsal.hear(batch_size)
        rehearsal.close()
        peaks = list(rehearsal.peaks())
    finally:
        gc.enable()
    if is_checked and peaks[0] != real:
        raise UnlikeSteps(f"the allocator gives {peaks[0]} when it is asked alone, and {real} in the steps.")
    return peaks


class _Rehearsal:
    """A training whose steps are heard, at one batch size after another.

    Args:
        cell: its cell.
        batch_size: the first batch size; PyTorch must not fail there.
    """

    def __init__(self, cell: CellConfig, batch_size: int) -> None:
        self._cell, self._batch_size = cell, batch_size
        torch.cuda.reset_peak_memory_stats()
        self._tuning, _ = build_on("meta", cell)
        with Listener() as listener:
            self._tuning.model.to_empty(device=cell.device)
        self._model = listener.heard()
        self._batch_bytes: dict[int, list[int]] = {}
        self._steps: dict[int, Heard | None] = {}
        """A step at each batch size; None where PyTorch fails."""

        self._last: Heard | None = None
        self._opening: list[Heard] = []
        self._later: list[Heard | None] = []
        """The steps after the opening in their order; None where one does not follow the one before it."""

    def open(self, num_steps: int) -> Peak:
        """Take the first steps; return the counters after them."""
        inputs, targets = self._batch(self._batch_size)
        with Listener() as listener:
            self._step = make_work(self._cell, self._tuning, self._tuning.model, inputs, targets).step
        self._optimizer = listener.heard()
        self._opening = [self._take_step(inputs, targets) for _ in range(num_steps)]
        self._steps[self._batch_size] = self._opening[0]
        return read_peak()

    def hear(self, batch_size: int) -> None:
        """Take a later step at a batch size."""
        try:
            self._steps[batch_size] = self._take_later_step(batch_size)
        except StepFails:
            self._steps[batch_size] = None
            self._start_over()
        self._later.append(self._steps[batch_size])

    def close(self) -> None:
        """Leave nothing on the device.

        Raises:
            UnlikeSteps: if something is left.
        """
        del self._step, self._tuning
        gc.collect()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        if torch.cuda.memory_reserved():
            raise UnlikeSteps("a training leaves blocks on the device when it is gone.")

    def peaks(self) -> Iterator[Peak | None]:
        """Yield the counters after the first steps at each batch size, as an empty allocator gives them.

        Raises:
            UnlikeSteps: if it is not known what a step leaves to the next, or as a Training does.
        """
        opening = [*self._opening, *self._later][:2]
        steady = next((pair for pair in pairwise(self._later) if None not in pair), None)
        if None in opening or steady is None:
            raise UnlikeSteps("PyTorch fails at too many batch sizes to know what a step leaves to the next.")
        training, model = Training(*opening, *steady), ask(self._model)
        for batch_size, step in self._steps.items():
            torch.cuda.reset_peak_memory_stats()
            if step is None:
                yield None
                continue
            blocks = take(self._batch_bytes[batch_size]) + ask(self._optimizer)
            blocks += training.ask(step, NUM_STEPS)
            yield read_peak()
            give_back(blocks)
            torch.cuda.empty_cache()
        give_back(model)
        torch.cuda.empty_cache()

    def _batch(self, batch_size: int) -> tuple[Inputs, Tensor]:
        inputs, targets = batch_without_values(replace(self._cell, batch_size=batch_size), self._tuning)
        self._batch_bytes[batch_size] = [one.untyped_storage().nbytes() for one in (*tensors_of(inputs), targets)]
        return inputs, targets

    def _take_step(self, inputs: Inputs, targets: Tensor) -> Heard:
        with prepared(self._cell), Listener(self._last) as listener:
            self._step(inputs, targets, listener.enter)
        self._last = listener.heard()
        return self._last

    def _take_later_step(self, batch_size: int) -> Heard:
        """Take a step that does what the third does, but asks for the workspaces of cuBLAS anew, in their place."""
        inputs, targets = self._batch(batch_size)
        self._step.steps_done = WARMUP_STEPS  # what the method does after a step may depend on how many there were
        torch._C._cuda_clearCublasWorkspaces()
        return self._take_step(inputs, targets)

    def _start_over(self) -> None:
        """Leave nothing of a step that has failed, and take one that does not fail, for the next to follow."""
        for parameter in self._tuning.model.parameters():
            parameter.grad = None
        gc.collect()
        self._last = None
        self._take_later_step(self._batch_size)
