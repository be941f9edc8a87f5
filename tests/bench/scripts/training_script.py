"""A training script as people write them; it does not know that it is watched. Its output goes to standard output."""

import argparse
import os
import sys

import torch
from torch import nn

WIDTH = 1024


def build(layers):
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(layers)))


def train(model, batch_size, steps):
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        inputs = torch.randn(batch_size, WIDTH, device="cuda")
        loss = model(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def one_step(batch_size):
    train(build(2).cuda(), batch_size, 1)


def allocate(gibibytes):
    kept = torch.empty(int(gibibytes * 2**30), dtype=torch.uint8, device="cuda")
    return kept.numel()


def fail():
    raise ValueError("for another reason")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--exit", type=int, default=0)
    parser.add_argument("--ddp", action="store_true")
    options = parser.parse_args()
    print("read:", sys.stdin.readline().strip())
    model = build(options.layers)
    if options.ddp:
        torch.distributed.init_process_group("nccl")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        model = nn.parallel.DistributedDataParallel(model.cuda())
        told = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(told, {"rank": int(os.environ["RANK"])})
        print("told:", told)
    train(model.cuda(), options.batch_size, options.steps)
    print("allocated:", torch.cuda.max_memory_allocated())
    if options.ddp:
        torch.distributed.destroy_process_group()
    sys.exit(options.exit)


if __name__ == "__main__":
    main()
