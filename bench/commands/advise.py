"""`python -m bench advise`: which methods fit a GPU."""

from dataclasses import dataclass

import tyro

from bench.advise import advise_all
from bench.config import Setting
from bench.predict.predictor import trace_preloading
from bench.predict.replay import replay
from bench.report.terminal import advice_table, make_console
from bench.sweep import checked_cells
from bench.units import MIB
from methods import patch_size_of

from .progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class AdviseConfig(Setting):
    """Which methods fit a GPU, how large a batch and a resolution they could have, and what would make the others fit.

    Example: --gpu rtx3090 --model vit_b --res 1024, or --gpu-memory 11GiB.
    """


def advise(arguments: list[str]) -> int:
    """Verdicts for a GPU, from predictions alone."""
    config = tyro.cli(AdviseConfig, args=arguments, prog="python -m bench advise")
    cells, gpu, console = checked_cells(config), config.gpu_to_predict, make_console()
    for model, res in dict.fromkeys((cell.model, cell.res) for cell in cells):
        asked = [cell for cell in cells if (cell.model, cell.res) == (model, res)]
        with progress_bar(len(asked)) as progress:
            advice = []
            for cell, one in zip(asked, advise_all(asked, gpu, patch_size_of(model)), strict=True):
                progress.begin(cell)
                advice.append(one)
                progress.end(one)
        console.print(advice_table(asked[0], gpu, advice))
        for cell in asked:
            if (trace := trace_preloading(cell)) is not None:
                needs = (replay(trace).reserved_bytes + gpu.context_bytes) / MIB
                console.print(f"{cell.method}: preloading its features takes {needs:,.0f} MiB, one image at a time")
    return 0
