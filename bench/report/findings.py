"""The numbers on the findings page: what the fair comparison shows, each from a record or a printed table."""

from bench.cards.gpus import GPUS
from bench.paper.evidence import Evidence
from bench.paper.preloading_cost import PreloadingCost
from bench.paper.printed import paper_table
from bench.paper.settings import SETTINGS, paper_cell
from bench.units import GIB, MIB
from fptplus.paper_training import EPOCHS, MESSIDOR2_IMAGES, TABLE2_EPOCH_IMAGES
from methods import METHODS, find_method

from .exhibit import Exhibit, card_of, markdown, numbers_of
from .fair_tables import charged_mib, pass_of
from .templates import render

THROUGH_LPM = tuple(method for method in METHODS if method not in ("linear", "fpt", "fptplus"))
"""Methods whose gradient runs through the large pre-trained model (LPM), full fine-tuning first."""

PAPER, FUSED, BEST = "the paper's setting", "fused attention", "all four"


def findings_page(evidence: Evidence, passes: list[PreloadingCost], tables: list[Exhibit]) -> str:
    """Return the page as Markdown."""
    numbers = {**_memory(evidence, passes), **_large(evidence), **_preloading(evidence, passes), **_energy()}
    rows = [row for table in tables for row in table.rows]
    sources = {number.source for number in numbers_of(rows)}
    numbers |= {"card": card_of("findings", rows), "is_measured": "measured" in sources}
    return render("findings.md.j2", tables=[markdown(table) for table in tables], **numbers)


def _mib(evidence: Evidence, method: str, setting: str, model: str = "vit_b", res: int = 512) -> float:
    return evidence.needed_mib(paper_cell(method, model, res, **SETTINGS[setting])).value


def _memory(evidence: Evidence, passes: list[PreloadingCost]) -> dict:
    by_setting = {
        setting: {method: _mib(evidence, method, setting) for method in METHODS}
        for setting in (PAPER, FUSED, "bf16", BEST)
    }
    paper, best = by_setting[PAPER], by_setting[BEST]
    cheapest = min(THROUGH_LPM[1:], key=paper.get)
    lora, bitfit, full = (evidence.record(paper_cell(method)) for method in ("lora", "bitfit", "full"))
    return {
        "paper": paper,
        "fused": by_setting[FUSED],
        "bf16": by_setting["bf16"],
        "best": best,
        "charged": charged_mib(evidence, passes, "fptplus", "vit_b", 512, BEST).value,
        "cheapest": find_method(cheapest).title,
        "cheapest_saves_pct": 100 * (1 - paper[cheapest] / paper["full"]),
        "num_above_fused_full": sum(paper[method] > by_setting[FUSED]["full"] for method in THROUGH_LPM[1:]),
        "best_low": min(best[method] for method in THROUGH_LPM),
        "best_high": max(best[method] for method in THROUGH_LPM),
        "lora_params_pct": lora.params_pct,
        "bitfit_params_pct": bitfit.params_pct,
        "lora_activations_pct": 100 * lora.predicted_activations_bytes / full.predicted_activations_bytes,
        "bitfit_activations_pct": 100 * bitfit.predicted_activations_bytes / full.predicted_activations_bytes,
        "lora_extra_gmacs": (lora.forward_macs - full.forward_macs) / 1e9,
    }


def _large(evidence: Evidence) -> dict:
    needed_gib = {method: _mib(evidence, method, BEST, "vit_l", 640) * MIB / GIB for method in METHODS}
    capacity_gib, small = GPUS["a6000"].memory_bytes / GIB, GPUS["rtx3060"]
    largest = max(needed_gib, key=needed_gib.get)
    return {
        "large_fit": sum(gib <= capacity_gib for gib in needed_gib.values()),
        "largest": find_method(largest).title,
        "largest_gib": needed_gib[largest],
        "small_card": small.title,
        "small_gib": small.memory_bytes / GIB,
        "small_fit": sum(needed_gib[method] <= small.memory_bytes / GIB for method in THROUGH_LPM),
    }


def _preloading(evidence: Evidence, passes: list[PreloadingCost]) -> dict:
    full, own = (evidence.record(paper_cell(method)) for method in ("full", "fptplus"))
    images = EPOCHS * TABLE2_EPOCH_IMAGES
    passes_of = {(res, s): pass_of(passes, "fptplus", "vit_b", res, s) for res in (512, 2048) for s in (PAPER, FUSED)}
    return {
        "pass_mib": {setting: passes_of[512, setting].process_bytes / MIB for setting in (PAPER, FUSED)},
        "far_pass_gib": {setting: passes_of[2048, setting].process_bytes / GIB for setting in (PAPER, FUSED)},
        "far_training_gib": _mib(evidence, "fptplus", PAPER, res=2048) * MIB / GIB,
        "epochs": EPOCHS,
        "epoch_images": TABLE2_EPOCH_IMAGES,
        "dataset_images": MESSIDOR2_IMAGES,
        "training_tmacs": own.train_step_macs / own.batch_size * images / 1e12,
        "pass_tmacs": own.backbone_forward_macs * TABLE2_EPOCH_IMAGES / 1e12,
        "full_tmacs": full.train_step_macs / full.batch_size * images / 1e12,
        "disk_mb": passes_of[512, PAPER].disk_bytes_per_image / 1e6,
        "dataset_gb": MESSIDOR2_IMAGES * passes_of[512, PAPER].disk_bytes_per_image / 1e9,
        "far_dataset_gb": MESSIDOR2_IMAGES * passes_of[2048, PAPER].disk_bytes_per_image / 1e9,
    }


def _energy() -> dict:
    """Return the energies that follow from the printed Table II."""
    table = paper_table(2).set_index("method")
    full, own, preloading = table.loc["full"], table.loc["fptplus"], table.loc["preloading"]
    training_s = own.train_time_s - preloading.train_time_s
    return {
        "full_kj": full.train_time_s * full.avg_power_w / 1e3,
        "pass_kj": preloading.train_time_s * preloading.avg_power_w / 1e3,
        "training_kj": training_s * own.avg_power_w / 1e3,
        "pass_s": preloading.train_time_s,
        "own_s": own.train_time_s,
        "own_w": own.avg_power_w,
        "own_img_s": own.throughput_img_s,
    }
