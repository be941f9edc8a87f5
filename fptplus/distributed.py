"""Training as one of several processes, started by torchrun."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; alone by default."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's stretch of `count` things; the stretches of all processes follow one another."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def gathered(self, part: Tensor) -> Tensor:
        """The parts of all processes, one after another along the first axis; they may differ in length."""
        if self.world_size == 1:
            return part
        lengths = [torch.zeros((), dtype=torch.long, device=part.device) for _ in range(self.world_size)]
        dist.all_gather(lengths, torch.tensor(len(part), device=part.device))
        longest = int(max(lengths))
        padded = torch.cat([part, part.new_zeros(longest - len(part), *part.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return torch.cat([each[: int(length)] for each, length in zip(parts, lengths, strict=True)])

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.world_size
        return value

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world_size > 1:
            dist.barrier()


def launched() -> Processes:
    """This process as torchrun's environment describes it; alone without one."""
    return Processes(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


@contextmanager
def process_group(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun has started: NCCL on `cuda`, each its own device, gloo on `cpu`."""
    processes = launched()
    if processes.world_size == 1:
        yield processes
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield processes
    finally:
        dist.destroy_process_group()
