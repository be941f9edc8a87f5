"""Tables I to VI of the paper from our records. Performance is the paper's if nothing was trained, and marked so."""

import math
from collections.abc import Iterator, Mapping

from bench.paper.evidence import PAPER_CARD, Evidence, Number
from bench.paper.flops import by_convention_gmacs, preloading_by_convention_gmacs, preloading_gmacs, true_gmacs
from bench.paper.printed import DATASETS, paper_table
from bench.paper.settings import TABLE3_RES, ablated, paper_cell, table3_cell
from bench.paper.table2_time import PRELOADING
from fptplus.paper_training import EPOCHS, TABLE2_EPOCH_IMAGES
from fptplus.training.efficiency import performance_efficiency
from methods import METHODS, find_method

from .exhibit import Entry, Exhibit, Row, card_of

SETTING = "batch 16, fp32, explicit attention, AdamW"
MEMORY_NOTE = "Memory in MiB of the whole process, CUDA context included."
PAPER_SOFTWARE_NOTE = (
    "FPT and FPT+: training emulated on the paper's PyTorch 2.0.0, with the context that the print has besides "
    "(paper_stack.csv)."
)


def paper_tables(evidence: Evidence) -> Iterator[Exhibit]:
    """Yield all six tables, in order."""
    yield table1(evidence)
    yield table2(evidence)
    yield table3(evidence)
    yield _ablation(evidence, 4, "side", "side_res", "Side px", "Table IV. FPT+ by the side network's resolution")
    yield _ablation(evidence, 5, "prompts", "num_prompts", "Prompts", "Table V. FPT+ by the number of prompts")
    yield _ablation(evidence, 6, "k", "reduction_factor", "k", "Table VI. FPT+ by the reduction factor")


def printed(value: float, number: int, card: str | None = None) -> Number:
    """Return a number of a printed table.

    Args:
        value: value as printed.
        number: number of the table.
        card: card that it was measured on, if that matters.
    """
    return Number(value=value, source="printed", record=f"bench/paper/table{number}.csv", card=card)


def average_auc(evidence: Evidence, row: dict) -> Number:
    """Return the average of the eight AUCs if all were trained, else the printed one."""
    aucs = [evidence.auc(row["method"], dataset, row["weights"]) for dataset in DATASETS]
    if any(auc is None for auc in aucs):
        return printed(row["avg_auc"], 1)
    return Number(value=sum(auc.value for auc in aucs) / len(aucs), source="trained", record=aucs[0].record)


def efficiencies(evidence: Evidence, auc: Number, params_pct: float, memory_mib: Number) -> tuple[Number, Number]:
    """Return performance-to-parameter and performance-to-memory efficiency (PPE, PME).

    They follow from an AUC and our parameters and memory.
    """
    source = "trained" if auc.source == "trained" else "computed"
    full = evidence.needed_mib(paper_cell("full"))
    return (
        Number(value=performance_efficiency(auc.value, params_pct / 100), source=source, record=auc.record),
        Number(
            value=performance_efficiency(auc.value, memory_mib.value / full.value),
            source=source,
            record=memory_mib.record,
            card=memory_mib.card,
        ),
    )


def table1(evidence: Evidence) -> Exhibit:
    """Return Table I: parameters, memory, performance and both efficiencies of the ten methods."""
    rows: list[Row] = []
    for row in paper_table(1).to_dict("records"):
        cell = paper_cell(row["method"])
        params, memory = evidence.params_pct(cell), evidence.paper_memory_mib(cell)
        auc = average_auc(evidence, row)
        ppe, pme = efficiencies(evidence, auc, params.value, memory)
        rows.append(
            (
                find_method(row["method"]).title,
                row["weights"],
                Entry(number=params, decimals=2),
                Entry(number=memory),
                *(_auc_entry(evidence, row, dataset) for dataset in DATASETS),
                *(Entry(number=number, decimals=2) for number in (auc, ppe, pme)),
            )
        )
    return Exhibit(
        name="table1",
        title=f"Table I. ViT-B, 512 px, {SETTING}, {card_of('table1', rows)}",
        headings=("Method", "Weights", "Params. %", "Mem.", *DATASETS.values(), "Avg.", "PPE", "PME"),
        rows=rows,
        notes=(MEMORY_NOTE, PAPER_SOFTWARE_NOTE),
    )


def _auc_entry(evidence: Evidence, row: dict, dataset: str) -> Entry:
    if (trained := evidence.auc(row["method"], dataset, row["weights"])) is not None:
        return Entry(number=trained, decimals=2)
    return Entry(number=printed(row[f"{dataset}_auc"], 1), decimals=2, plus_minus=row[f"{dataset}_std"])


def table2(evidence: Evidence) -> Exhibit:
    """Return Table II: multiply-accumulates, time, throughput and power."""
    rows: list[Row] = []
    for row in paper_table(2).to_dict("records"):
        method, is_pass = row["method"], row["method"] == PRELOADING
        title = "Preloading" if is_pass else find_method(method).title
        if is_pass:
            counted = preloading_by_convention_gmacs(evidence), preloading_gmacs(evidence)
        else:
            counted = by_convention_gmacs(evidence, method), true_gmacs(evidence, method)
        numbers = (table2_number(evidence, row, column) for column in _TABLE2)
        rows.append((title, *(Entry(number=number, decimals=2) for number in (*counted, *numbers))))
    return Exhibit(
        name="table2",
        title=f"Table II. Training efficiency: ViT-B, 512 px, {SETTING}, {card_of('table2', rows)}",
        headings=("Method", "GMACs, paper's way", "GMACs, true", "Time s", "Images/s", "Peak W", "Avg. W"),
        rows=rows,
        notes=(
            "GMACs of one image forward. The paper's way: by fvcore, which leaves out fused attention; LoRA and "
            "AdaLoRA with explicit attention. True: every product.",
            f"Time of {EPOCHS} epochs of {TABLE2_EPOCH_IMAGES:,} images; where it is measured, from the throughput.",
            "Predicted: by the model of docs/time.md, fitted to nothing of the paper; FPT and FPT+ are fed from files, "
            "and their time includes preloading.",
        ),
    )


_TABLE2 = {
    "train_time_s": "train_time_s",
    "throughput_img_s": "throughput_img_s",
    "peak_power_w": "peak_power_w",
    "mean_power_w": "avg_power_w",
}
"""Columns of ours and their names in table2.csv."""


def table2_number(evidence: Evidence, row: Mapping[str, str | float], column: str) -> Number:
    """Return time, throughput or power of a row of Table II: ours, or as printed if there is none of ours.

    Args:
        evidence: all records.
        row: the printed row.
        column: name of our column.
    """
    return evidence.table2(row["method"], column) or printed(row[_TABLE2[column]], 2, PAPER_CARD)


def table3(evidence: Evidence) -> Exhibit:
    """Return Table III: ViT-L by resolution."""
    table = paper_table(3).set_index(["method", "res"])
    rows: list[Row] = []
    for method in METHODS:
        memory = [Entry(number=evidence.paper_memory_mib(table3_cell(method, res))) for res in TABLE3_RES]
        aucs = [table.avg_auc[method, res] for res in TABLE3_RES]
        printed_aucs = [Entry(number=printed(None if math.isnan(auc) else auc, 3), decimals=2) for auc in aucs]
        rows.append((find_method(method).title, *memory, *printed_aucs))
    twelve = [Entry(number=evidence.memory_mib(paper_cell("fptplus", "vit_l", res))) for res in TABLE3_RES]
    rows.append(("FPT+ with 12 side layers", *twelve, *(Entry(number=None) for _ in TABLE3_RES)))
    return Exhibit(
        name="table3",
        title=f"Table III. ViT-L by resolution: {SETTING}, {card_of('table3', rows)}; / is out of memory on 48 GB",
        headings=("Method", *(f"Mem. {res}" for res in TABLE3_RES), *(f"AUC {res}" for res in TABLE3_RES)),
        rows=rows,
        notes=(
            MEMORY_NOTE,
            PAPER_SOFTWARE_NOTE,
            "FPT+ has the 6 side layers of ViT-B, as the print has; half of ViT-L's blocks are 12, in the last row, on "
            "the present PyTorch.",
        ),
    )


def _ablation(evidence: Evidence, number: int, short: str, field: str, heading: str, title: str) -> Exhibit:
    table = paper_table(number).set_index(field)
    rows: list[Row] = []
    for value, cell in ablated(short):
        auc = printed(table.avg_auc[value], number)
        params, memory = evidence.params_pct(cell), evidence.paper_memory_mib(cell)
        ppe, pme = efficiencies(evidence, auc, params.value, memory)
        numbers = ((auc, 2), (params, 2), (memory, 0), (ppe, 2), (pme, 2))
        rows.append((str(value), *(Entry(number=one, decimals=decimals) for one, decimals in numbers)))
    return Exhibit(
        name=f"table{number}",
        title=f"{title}, {card_of(f'table{number}', rows)}",
        headings=(heading, "Avg. AUC", "Params. %", "Mem.", "PPE", "PME"),
        rows=rows,
        notes=(MEMORY_NOTE, PAPER_SOFTWARE_NOTE),
    )
