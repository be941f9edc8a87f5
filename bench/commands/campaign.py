"""`python -m bench campaign`: the paper's efficiency tables on this machine's GPU, in calls of a few minutes."""

import time
from dataclasses import dataclass
from pathlib import Path

from bench.campaign import BUDGET, campaign_cells, ratios, run_campaign, unsettled
from bench.duration import Eta
from bench.emulate.device_state import is_emulated
from bench.predict.devices import present_gpu
from bench.report.comparison import ratios_table
from bench.report.terminal import make_console
from bench.results_store import ResultsStore
from fptplus import InvalidInput

from .progress import sweep_progress


@dataclass(frozen=True, kw_only=True)
class CampaignConfig:
    """Measure all methods at ViT-B 512 px and ViT-L 128 to 640 px, in the paper's setting and in today's.

    Ends by writing ratios.csv: memory, throughput and energy to full fine-tuning, beside the paper's. Call it again to
    go on where the time was up.
    """

    limit_s: float = 540.0
    """The call ends within so many seconds."""

    out: str | None = None
    """Folder for records and ratios. Default: results/<name of the GPU>."""


def main(config: CampaignConfig) -> int:
    """Measure, and set the ratios beside the paper's. Returns 1 if a cell failed."""
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
    console = make_console()
    console.print(ratios_table(table))
    what = "ran on an emulated device, where nothing is measured" if is_emulated() else "measured"
    done = f"{len(records)} of {len(cells)} cells {what}; records and ratios.csv in {folder}"
    console.print(done + ("" if len(records) == len(cells) else "; call again to go on"), highlight=False)
    return int(any(record.status == "failed" for record in records))
