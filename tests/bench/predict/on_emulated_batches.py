"""Functions about many batch sizes that the tests run in a pool's processes, which find them by name."""

import torch

from bench.predict import fit_grid
from bench.predict.batch_sizes import peaks_of
from bench.predict.emulated import peak_of
from methods import METHODS
from methods.method import image_fine_tuning

FAILS_AT = (4, 8)
"""Batch sizes at which the method below fails."""


class _Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        torch.empty_like(grad)
        if len(grad) in FAILS_AT:
            raise RuntimeError("this batch size has no kernel")
        return grad


class Failing:
    """Full fine-tuning whose backward pass fails at some batch sizes."""

    title, source = "Failing", "a test"

    def build(self, vit, res):
        vit.norm.register_forward_hook(lambda module, inputs, output: _Failing.apply(output))
        return image_fine_tuning(vit, res)


def checked_peaks_of(cell, batch_sizes):
    """peaks_of(), checked."""
    return peaks_of(cell, batch_sizes, is_checked=True)


def peaks_of_failing(cell, batch_sizes):
    """peaks_of() where the cell's method is the one above."""
    METHODS[cell.method] = Failing()
    return checked_peaks_of(cell, batch_sizes)


def peak_of_failing(cell):
    """peak_of() where the cell's method is the one above."""
    METHODS[cell.method] = Failing()
    return peak_of(cell)


def rows_of_small_grid(family, gpu):
    """grid_rows() of one small resolution."""
    fit_grid.RES, fit_grid.BATCHES = (family.res,), (1, 2, 5)
    return fit_grid.grid_rows(family, gpu)
