"""`python -m bench why`: where the memory of a method goes, and its time."""

from dataclasses import asdict, dataclass
from pathlib import Path

from bench.cells.config import CellConfig, Setting
from bench.cells.identity import IDENTITY
from bench.cells.step_options import shared_in_words
from bench.predict.contributions import Contribution, contributions
from bench.predict.predictor import dissect_all
from bench.report.figures import draw_breakdown, draw_timeline
from bench.report.table_formats import FormatOption, Printer, Value, printing
from bench.report.terminal import PeakPart, peak_parts, peak_view, rules_view
from bench.report.time_tables import time_view
from bench.sweep.sweep import checked_cells
from bench.timing.estimate import TimePart
from fptplus.output_folder import check_output_folder, writable_folder
from methods import find_method

from .progress import say_engine


@dataclass(frozen=True, kw_only=True)
class WhyConfig(FormatOption, Setting):
    """Show what each method needs its memory for: figures over one training step and at the peak, as PNG and SVG, and
    tables of the largest tensors and of what takes the time."""

    rules: bool = False
    """Also print what each rule of a traced prediction adds, which takes a few seconds per method."""

    out: str = "results/why"
    """Folder for the figures."""


def main(config: WhyConfig) -> int:
    """Draw timelines and a breakdown, and print the largest tensors."""
    check_output_folder(Path(config.out))
    cells = checked_cells(config)
    say_engine(config.engine)
    folder = writable_folder(config.out)
    with printing(config.format) as printer:
        for model, res in dict.fromkeys((cell.model, cell.res) for cell in cells):
            _explain([cell for cell in cells if (cell.model, cell.res) == (model, res)], config, folder, printer)
        printer.note(f"figures in {config.out}")
    return 0


def _explain(cells: list[CellConfig], config: WhyConfig, folder: Path, printer: Printer) -> None:
    """Write the figures and print the tables of one model at one resolution."""
    first, peaks = cells[0], {}
    name, setting = f"{first.model}_{first.res}", f"{first.model}, {first.res} px, batch {first.batch_size}"
    setting += f", {first.precision}, {first.attention} attention{shared_in_words(first)}"
    for cell, answer in zip(cells, dissect_all(cells, config.engine), strict=True):
        if isinstance(answer, Exception):
            raise answer
        (prediction, anatomy), title = answer, find_method(cell.method).title
        peaks[title] = anatomy.peak
        draw_timeline(folder / f"timeline_{cell.method}_{name}", f"{title}: {setting}", anatomy)
        printer.show((_row(cell, part) for part in peak_parts(anatomy)), peak_view(title, anatomy))
        if (estimate := prediction.estimate) is not None:
            printer.show((_row(cell, part) for part in estimate.parts), time_view(title, estimate))
        if config.rules:
            added = contributions(cell)
            printer.show((_row(cell, rule) for rule in added), rules_view(title, added))
    context_bytes = config.gpu_to_predict.context_bytes
    draw_breakdown(folder / f"breakdown_{name}", f"Memory at the peak: {setting}", peaks, context_bytes)


_COLUMNS = ("part", "where", "kind", "count", "allocated_bytes", "rule", "reserved_bytes")
_TIME_COLUMNS = ("phase", "flops", "bytes_moved", "predicted_time_s")


def _row(cell: CellConfig, found: PeakPart | Contribution | TimePart) -> dict[str, Value]:
    """Return a part of a method's peak or of its time, or what a rule adds to the peak, as a row."""
    asked = {name: getattr(cell, name) for name in IDENTITY}
    values = asdict(found)
    if isinstance(found, TimePart):
        values |= {"part": "time", "predicted_time_s": values.pop("seconds")}
    return asked | dict.fromkeys((*_COLUMNS, *_TIME_COLUMNS)) | values
