"""What each block of memory was used for, from a step's profile and from what the step held when each phase began."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.cells.anatomy import KINDS, Allocation, Anatomy, Kind, Peak
from bench.cells.work import Work
from fptplus.network.features import tensors_of

from .step_profile import Change, Profile, mark_phase


@dataclass(frozen=True)
class _Held:
    """A block that was in use before the step."""

    address: int
    num_bytes: int


class StepWatch:
    """A context manager around one step that notes what memory is used for, without touching it.

    Args:
        work: the step, with the optimizer's state already created.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._gradients: list[set[int]] = []
        """Addresses of the gradients at the beginning of the n-th phase."""

    def __enter__(self) -> "StepWatch":
        torch.cuda.reset_peak_memory_stats()
        self._held = list(_blocks_in_use())
        self._known = dict(_known_addresses(self._work))
        return self

    def __exit__(self, *exc_info) -> None:
        counters = torch.cuda.memory_stats()
        self._peaks = {
            f"{name}_bytes": counters[f"{name}_bytes.all.peak"] for name in ("requested", "allocated", "reserved")
        }
        self._state = {address for address, (kind, _) in _known_addresses(self._work) if kind == "optimizer"}

    def enter(self, phase: str) -> None:
        """Note that a phase of the step begins."""
        self._gradients.append({_address(p.grad) for p in self._work.step.model.parameters() if p.grad is not None})
        mark_phase(phase)

    def anatomy(self, profile: Profile) -> Anatomy:
        """Return the step, allocation by allocation.

        Raises:
            RuntimeError: if profile and counters disagree on the peak.
        """
        blocks = [(held, self._before(held)) for held in self._held]
        told = self._told(profile, {held.address: allocation for held, allocation in blocks})
        now: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        alive = dict.fromkeys(allocation for _, allocation in blocks)
        for allocation in alive:
            now[allocation.kind] += allocation.num_bytes
        timeline, phases = [dict(now)], {}
        peak_index, at_peak, most = 0, list(alive), sum(now.values())
        for sign, allocation, phase in told:
            now[allocation.kind] += sign * allocation.num_bytes
            if sign > 0:
                alive[allocation] = None
            else:
                alive.pop(allocation, None)
            phases.setdefault(phase, len(timeline))
            timeline.append(dict(now))
            if (total := sum(now.values())) > most:
                peak_index, at_peak, most = len(timeline) - 1, list(alive), total
        if most != self._peaks["allocated_bytes"]:
            raise RuntimeError(f"the profile's peak {most} is not the allocator's {self._peaks['allocated_bytes']}")
        peak = Peak(by_kind=timeline[peak_index], **self._peaks)
        return Anatomy(peak=peak, timeline=timeline, peak_index=peak_index, phases=phases, alive=at_peak)

    def _before(self, held: _Held) -> Allocation:
        kind, name = self._known.get(held.address, ("temporary", "kept by PyTorch: workspaces of matrix products"))
        return Allocation(num_bytes=held.num_bytes, step=-1, phase="before", kind=kind, op=name)

    def _told(self, profile: Profile, live: dict[int, Allocation]) -> list[tuple[int, Allocation, str]]:
        """Return each change with its allocation, whose kind is known once all have been read."""
        told, phase, number = [], "before", 0
        operator_ends_ns: dict[Allocation, int] = {}
        for change in profile.changes:
            while number < len(profile.marks) and profile.marks[number].time_ns <= change.time_ns:
                phase = profile.marks[number].phase
                self._begin(phase, live, number)
                number += 1
            if change.num_bytes > 0:
                allocation = live[change.address] = _allocation(change, phase)
                operator_ends_ns[allocation] = change.op_ends_ns
                told.append((1, allocation, phase))
            elif (allocation := live.pop(change.address, None)) is not None:
                allocation.is_scratch = change.time_ns <= operator_ends_ns.get(allocation, 0)
                told.append((-1, allocation, phase))
        for address, allocation in live.items():
            if allocation.kind is None and address in self._state:
                allocation.kind = "optimizer"
        for _, allocation, _ in told:
            if allocation.kind is None:
                allocation.kind = "activations" if allocation.recomputed else "temporary"
        return told

    def _begin(self, phase: str, live: dict[int, Allocation], number: int) -> None:
        """Note what is alive when a phase begins: gradients, and what the backward pass will need."""
        for address in self._gradients[number]:
            if (allocation := live.get(address)) is not None and allocation.kind is None:
                allocation.kind = "gradients"
        if phase == "backward":
            for allocation in live.values():
                if allocation.kind is None and allocation.phase in ("forward", "loss"):
                    allocation.kind = "activations"


def _allocation(change: Change, phase: str) -> Allocation:
    return Allocation(
        num_bytes=change.num_bytes,
        step=0,
        phase=phase,
        recomputed=phase == "backward" and change.is_recomputed,
        op=change.op,
        module=change.module,
    )


def _blocks_in_use() -> Iterator[_Held]:
    for segment in torch.cuda.memory_snapshot():
        for block in segment["blocks"]:
            if block["state"] == "active_allocated":
                yield _Held(block["address"], block["size"])


def _known_addresses(work: Work) -> Iterator[tuple[int, tuple[Kind, str]]]:
    """Yield the addresses of what a step holds between two calls, with kind and name."""
    for index, tensor in enumerate([*tensors_of(work.inputs), work.targets]):
        yield _address(tensor), ("inputs", f"input {index}")
    for name, tensor in _named_tensors(work.step.model):
        yield _address(tensor), ("weights", name)
        if tensor.grad is not None:
            yield _address(tensor.grad), ("gradients", f"gradient of {name}")
    if (averaged := getattr(work.step, "averaged", None)) is not None:
        for name, tensor in _named_tensors(averaged):
            yield _address(tensor), ("weights", f"moving average of {name}")
    if (optimizer := getattr(work.step, "optimizer", None)) is not None:
        for state in optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.is_cuda:
                    yield _address(value), ("optimizer", name)


def _named_tensors(model: torch.nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
