"""Functions that ask the allocator of an emulated card for blocks; a job's process finds them by name."""

import random

import torch

from bench.emulate.requests import Listener, ask, give_back
from bench.units import MIB


def heard_and_asked(seed):
    """The counters after some work and its end, and after the same requests without the work and their end."""
    found = []
    with Listener() as listener:
        blocks = _work(random.Random(seed))
    found.append(_counters())
    del blocks
    found.append(_emptied())
    left = ask(listener.heard())
    found.append(_counters())
    give_back(left)
    return [*found, _emptied()]


def _work(draw):
    """Take and drop tensors of all sizes in any order; return those that are left."""
    blocks = []
    for _ in range(400):
        if blocks and draw.random() < 0.45:
            blocks.pop(draw.randrange(len(blocks)))
        else:
            blocks.append(
                torch.empty(draw.choice((1, 700, MIB, 3 * MIB, 30 * MIB)) + draw.randrange(MIB), device="cuda")
            )
    return blocks


def _counters():
    return {name: value for name, value in torch.cuda.memory_stats().items() if name.endswith((".current", ".peak"))}


def _emptied():
    torch.cuda.empty_cache()
    left = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    return left


def foreign_block():
    """Hear of a block given back that was asked for before anybody listened."""
    block = torch.empty(1, device="cuda")
    with Listener() as listener:
        del block
    return listener.heard()
