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
    """This process's place among those that train together; a single process by default."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return this process's slice of `count` items; the slices of all processes follow one another."""
        return slice(count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size)

    def gathered(self, part: Tensor) -> Tensor:
        """Return the parts of all processes, concatenated along the first axis; they may differ in length."""
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
        """Return the mean of a value over all processes."""
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.world_size
        return value

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.world_size > 1:
            dist.barrier()


def launched() -> Processes:
    """Read this process's place from torchrun's environment variables; a single process without them."""
    return Processes(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


@contextmanager
def process_group(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun has started: by NCCL on `cuda`, one device each, or by gloo on `cpu`."""
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
