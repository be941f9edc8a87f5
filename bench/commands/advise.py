"""`python -m bench advise`: which methods fit a GPU."""

from dataclasses import dataclass, replace

from bench.cells.config import Setting
from bench.cells.grid import preloading_of
from bench.predict.advice import advise_all
from bench.predict.predictor import predict_all
from bench.report.terminal import advice_table, make_console
from bench.sweep.sweep import checked_cells
from bench.units import MIB
from methods import PASSES, patch_size_of

from .progress import progress_bar, say_engine


@dataclass(frozen=True, kw_only=True)
class AdviseConfig(Setting):
    """Which methods fit a GPU, how large a batch and a resolution they could have, and what would make the others fit.

    Example: --gpu rtx3090 --model vit_b --res 1024, or --gpu-memory 11GiB.
    """


def main(config: AdviseConfig) -> int:
    """Verdicts for a GPU, from predictions alone."""
    cells, gpu, console = checked_cells(config), config.gpu_to_predict, make_console()
    say_engine(config.engine)
    for model, res in dict.fromkeys((cell.model, cell.res) for cell in cells):
        asked = [cell for cell in cells if (cell.model, cell.res) == (model, res)]
        with progress_bar(len(asked)) as progress:
            advice = []
            for cell, one in zip(asked, advise_all(asked, patch_size_of(model), config.engine), strict=True):
                progress.begin(cell)
                advice.append(one)
                progress.end(one)
        console.print(advice_table(asked[0], gpu, advice))
        preloaded = [cell for cell in asked if f"{cell.method}_preloading" in PASSES]
        passes = [replace(preloading_of(cell), batch_size=1) for cell in preloaded]
        for cell, answer in zip(preloaded, predict_all(passes, config.engine), strict=True):
            if isinstance(answer, Exception):
                raise answer
            needs = f"{answer.process_bytes / MIB:,.0f} MiB"
            console.print(f"{cell.method}: preloading its features takes {needs}, one image at a time")
    return 0
