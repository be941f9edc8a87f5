"""Trains one model alone, as a replica, with a sharded optimizer, and sharded; ranks print their peaks in bytes."""

import gc
import os
import time

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from training_script import WIDTH, build

LAYERS, BATCH, STEPS = 32, 8, 4


def alone(model):
    return model, torch.optim.AdamW(model.parameters(), fused=True)


def ddp(model):
    return alone(DistributedDataParallel(model))


def zero(model):
    model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    return model, ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, fused=True)


def fsdp(model):
    for layer in model:
        fully_shard(layer)
    return alone(fully_shard(model))


def peak_bytes(prepare):
    torch.cuda.reset_peak_memory_stats()
    model, optimizer = prepare(build(LAYERS).cuda())
    for step in range(STEPS):
        if step == 2:
            settle()
            torch.cuda.reset_peak_memory_stats()
        loss = model(torch.zeros(BATCH, WIDTH, device="cuda")).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return torch.cuda.max_memory_allocated()


def settle():
    """Wait until DDP's first buckets are gone, which it replaces once: NCCL holds them until a later collective."""
    for _ in range(15):
        time.sleep(0.1)
        dist.barrier()
    gc.collect()


if __name__ == "__main__":
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    told = [None] * dist.get_world_size()
    dist.all_gather_object(told, {"rank": dist.get_rank()})
    for prepare in (alone, ddp, zero, fsdp):
        print(f"{dist.get_rank()} {prepare.__name__} {peak_bytes(prepare)} {len(told)}\n", end="", flush=True)
    dist.destroy_process_group()
