"""`python -m bench why`: where the memory of a method goes."""

from dataclasses import dataclass

from bench.cells.config import Setting
from bench.cells.step_options import shared_in_words
from bench.predict.contributions import contributions
from bench.predict.predictor import dissect_all
from bench.records.output_folder import writable_folder
from bench.report.figures import draw_breakdown, draw_timeline
from bench.report.terminal import make_console, rules_table, tensors_table
from bench.sweep.sweep import checked_cells
from methods import find_method

from .progress import say_engine


@dataclass(frozen=True, kw_only=True)
class WhyConfig(Setting):
    """Draw where the memory of each method goes: over one training step, and at the peak; PNG and SVG."""

    rules: bool = False
    """Also print what each rule of a traced prediction adds; takes a few seconds a method."""

    out: str = "results/why"
    """Folder for the figures."""


def main(config: WhyConfig) -> int:
    """Timelines, a breakdown and the largest tensors."""
    cells, gpu, console = checked_cells(config), config.gpu_to_predict, make_console()
    say_engine(config.engine)
    folder = writable_folder(config.out)
    for model, res in dict.fromkeys((cell.model, cell.res) for cell in cells):
        peaks = {}
        asked = [cell for cell in cells if (cell.model, cell.res) == (model, res)]
        setting = f"{model}, {res} px, batch {config.batch_size}, {asked[0].precision}, {asked[0].attention} attention"
        setting += shared_in_words(asked[0])
        for cell, answer in zip(asked, dissect_all(asked, config.engine), strict=True):
            if isinstance(answer, Exception):
                raise answer
            (_, anatomy), title = answer, find_method(cell.method).title
            peaks[title] = anatomy.peak
            draw_timeline(folder / f"timeline_{cell.method}_{model}_{res}", f"{title}: {setting}", anatomy)
            console.print(tensors_table(title, anatomy))
            if config.rules:
                console.print(rules_table(title, contributions(cell)))
        draw_breakdown(folder / f"breakdown_{model}_{res}", f"Memory at the peak: {setting}", peaks, gpu.context_bytes)
    console.print(f"figures in {config.out}", highlight=False)
    return 0
