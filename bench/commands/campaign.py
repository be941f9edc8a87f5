"""`python -m bench campaign`: the paper's efficiency tables on this machine's GPU, in calls of a few minutes."""

import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd

from bench.cards.gpus import present_gpu
from bench.cells.config import PROFILES, CellConfig
from bench.cells.grid import with_preloading
from bench.cells.identity import identity_of
from bench.cells.step_options import LORA_OPTIONS
from bench.emulate.device_state import is_emulated
from bench.measure.measure import Budget
from bench.predict.predictor import predict_all
from bench.records.record import Record
from bench.records.results_store import ResultsStore
from bench.report.table_formats import Column, FormatOption, Printer, TableView, data_rows, number, printing
from bench.sweep.duration import Eta
from bench.sweep.harness import cell_runner
from bench.sweep.sweep import Progress, Redo, Rules, is_settled, run_sweep
from fptplus import InvalidInput
from fptplus.paper_training import TABLE2_SPLIT_IMAGES
from methods import METHODS

from .progress import sweep_progress

SIZES = (("vit_b", 512), *(("vit_l", res) for res in (128, 256, 384, 512, 640)))
BUDGET = Budget(cuda_s=2.0, idle_s=1.0, loader_s=1.5, timeout_s=240.0)

_WRITING_S = 10.0
"""Time reserved for the table at the end, in seconds."""

_PAPER = Path(__file__).parents[1] / "paper"
RATIOS = {
    "process": "measured_process_bytes",
    "reserved": "measured_peak_reserved_bytes",
    "throughput": "throughput_img_s",
    "energy": "energy_j_per_img",
    "gross_energy": "gross_energy_j_per_img",
}
"""Columns shown relative to full fine-tuning, by the name of the ratio."""


def campaign_cells(gpu: str) -> list[CellConfig]:
    """Return every cell of the campaign: the paper's setting first, full fine-tuning first in each setting."""
    cells = [
        CellConfig(method=method, model=model, res=res, device="cuda", gpu=gpu, **axes)
        for axes, (model, res), method in product(PROFILES.values(), SIZES, METHODS)
    ]
    return list(with_preloading(cells))


def unsettled(cells: list[CellConfig], store: ResultsStore) -> list[CellConfig]:
    """Return the cells that no device has answered yet."""
    return [cell for cell in cells if not is_settled(store.find(cell.cell_id), Redo())]


def run_campaign(
    cells: list[CellConfig], store: ResultsStore, progress: Progress, eta: Eta, end_by: float
) -> list[Record]:
    """Measure cells until shortly before a moment of time.monotonic(); leave cells that would exceed it for later.

    Cells are predicted on all processors, as many at a time as can be measured in the rest of the call.

    Returns:
        The records of all cells that have run, in this call or an earlier one.
    """
    end_by -= _WRITING_S
    left = unsettled(cells, store)
    while left and (left_s := end_by - time.monotonic()) > 0:
        count = 1 + int(left_s / eta.cell_s(left[0]))
        chosen, left = left[:count], left[count:]
        answers = dict(zip((cell.cell_id for cell in chosen), predict_all(chosen), strict=True))
        predictions = {name: answer for name, answer in answers.items() if not isinstance(answer, Exception)}
        runner = cell_runner(BUDGET, TABLE2_SPLIT_IMAGES, progress.phase, predictions, end_by, store=store)
        run_sweep(chosen, store, progress, runner, Rules(end_by=end_by))
    records = (store.find(cell.cell_id) for cell in cells)
    return [record for record in records if is_settled(record, Redo())]


def ratios(records: list[Record]) -> pd.DataFrame:
    """Relate each measured cell to full fine-tuning in the same setting, next to the paper's ratio.

    Returns:
        Columns profile, model, res, method, status, name_ratio for each of RATIOS, and paper_memory_ratio,
        paper_throughput_ratio, paper_gross_energy_ratio. A ratio is empty if either side was not measured or not
        printed. The paper's energy is average power over throughput, idle power included.
    """
    paper = _paper_ratios()
    rows = []
    full = {_setting(record): record for record in records if record.method == "full"}
    for record in records:
        reference = full.get(_setting(record))
        row = {"profile": _profile(record), "model": record.model, "res": record.res}
        row |= {"method": record.method, "status": record.status}
        row |= {f"{name}_ratio": _ratio(record, reference, column) for name, column in RATIOS.items()}
        rows.append(row | paper.get((record.model, record.res, record.method), {}))
    columns = ["profile", "model", "res", "method", "status", *(f"{name}_ratio" for name in RATIOS)]
    columns += ["paper_memory_ratio", "paper_throughput_ratio", "paper_gross_energy_ratio"]
    return pd.DataFrame(rows, columns=columns)


def _setting(record: Record) -> tuple:
    """Return what a method and full fine-tuning have in common: all but the method and the options of LoRA."""
    return identity_of(record, without=("method", *LORA_OPTIONS))


def _profile(record: Record) -> str:
    axes = {name: getattr(record, name) for name in ("precision", "attention", "optimizer")}
    return next((name for name, profile in PROFILES.items() if axes.items() <= profile.items()), "")


def _ratio(record: Record, reference: Record | None, column: str) -> float | None:
    if reference is None or None in (pair := (getattr(record, column), getattr(reference, column))):
        return None
    return pair[0] / pair[1]


def _paper_ratios() -> dict[tuple[str, int, str], dict[str, float]]:
    """Return the printed numbers as ratios to full fine-tuning, by model, resolution and method."""
    found: dict[tuple[str, int, str], dict[str, float]] = {}
    memory_b = pd.read_csv(_PAPER / "table1.csv").query("weights == 'supervised'").set_index("method").mem_mb
    for method, size in memory_b.items():
        found["vit_b", 512, method] = {"paper_memory_ratio": size / memory_b["full"]}
    for res, rows in pd.read_csv(_PAPER / "table3.csv").groupby("res"):
        memory_l = rows.set_index("method").mem_mb.dropna()
        for method, size in memory_l.items() if "full" in memory_l else ():
            found["vit_l", res, method] = {"paper_memory_ratio": size / memory_l["full"]}
    speed = pd.read_csv(_PAPER / "table2.csv").set_index("method")
    energy = speed.avg_power_w / speed.throughput_img_s
    for method in speed.index:
        name = "fptplus_preloading" if method == "preloading" else method
        found.setdefault(("vit_b", 512, name), {}).update(
            paper_throughput_ratio=speed.throughput_img_s[method] / speed.throughput_img_s["full"],
            paper_gross_energy_ratio=energy[method] / energy["full"],
        )
    return found


def print_ratios(ratios: pd.DataFrame, printer: Printer) -> None:
    """Print measured ratios to full fine-tuning next to the paper's, one table per profile, model and resolution."""
    groups = ratios.groupby(["profile", "model", "res"], sort=False)
    printer.show(data_rows(ratios), *(_ratios_view(*setting, rows) for setting, rows in groups))


def _ratios_view(profile: str, model: str, res: int, ratios: pd.DataFrame) -> TableView:
    return TableView(
        title=f"{profile}, {model}, {res} px: measured here, and as the paper prints it, relative to full fine-tuning",
        columns=(
            Column(heading="Method", show=lambda row: row.method),
            Column(heading="Status", show=lambda row: "" if row.status == "ok" else row.status),
            number("Process\nmemory", "process_ratio", ".3f"),
            number("Reserved", "reserved_ratio", ".3f", is_extra=True),
            number("In the\npaper", "paper_memory_ratio", ".3f"),
            number("Through-\nput", "throughput_ratio", ".3f"),
            number("In the\npaper", "paper_throughput_ratio", ".3f"),
            number("Energy\nnet", "energy_ratio", ".3f"),
            number("Energy\ngross", "gross_energy_ratio", ".3f"),
            number("In the\npaper", "paper_gross_energy_ratio", ".3f"),
        ),
        items=list(ratios.itertuples()),
    )


@dataclass(frozen=True, kw_only=True)
class CampaignConfig(FormatOption):
    """Measure all methods with ViT-B at 512 px and ViT-L at 128 to 640 px, in the paper's setting and in today's.

    At the end ratios.csv has memory, throughput and energy relative to full fine-tuning, next to the paper's. Call it
    again to resume where the time ran out.
    """

    limit_s: float = 540.0
    """Time limit of this call, in seconds."""

    out: str | None = None
    """Folder for records and ratios. Default: results/<name of the GPU>."""


def main(config: CampaignConfig) -> int:
    """Measure, and put the ratios next to the paper's. Return 1 if a cell failed."""
    began = time.monotonic()
    if not config.limit_s > 0:
        raise InvalidInput(f"limit-s must be above 0 seconds, got {config.limit_s:g}.")
    if (gpu := present_gpu()) is None:
        raise InvalidInput("campaign must run on a machine with a CUDA device, found none; use a GPU machine.")
    folder, end_by = Path(config.out or f"results/{gpu.name}"), began + config.limit_s
    store, cells = ResultsStore(folder), campaign_cells(gpu.name)
    eta = Eta(BUDGET, store.records())
    with sweep_progress(unsettled(cells, store), eta) as progress:
        records = run_campaign(cells, store, progress, eta, end_by)
    table = ratios(records)
    table.to_csv(folder / "ratios.csv", index=False)
    what = "ran on an emulated device, where nothing is measured" if is_emulated() else "measured"
    done = f"{len(records)} of {len(cells)} cells {what}; records and ratios.csv in {folder}"
    with printing(config.format) as printer:
        print_ratios(table, printer)
        printer.note(done + ("" if len(records) == len(cells) else "; call again to continue"))
    return int(any(record.status == "failed" for record in records))
