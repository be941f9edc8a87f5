"""Work on many cells at once, on all processors."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch

from bench.cells.config import CellConfig

Answer = TypeVar("Answer")


def on_all_processors(work: Callable[[CellConfig], Answer], cells: list[CellConfig]) -> Iterator[Answer]:
    """Yield the answer for each cell, in their order.

    Each process computes in one thread: there is one process per processor, and OpenMP's threads do not survive a fork.
    """
    context = multiprocessing.get_context("fork") if sys.platform == "linux" else None
    count = min(len(cells), os.cpu_count() or 1)
    if count == 0:
        return
    with ProcessPoolExecutor(count, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(work, cells)
