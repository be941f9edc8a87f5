"""Every number that the paper prints in a table, and the memory that its Figure 7 states, each with its meaning."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd

from bench.cells.config import CellConfig
from methods import METHODS, find_method
from methods.ablations import ablation_name

from .settings import paper_cell, table3_cell

Quantity = Literal[
    "params_pct", "memory_mib", "gmacs", "seconds", "img_s", "peak_w", "mean_w", "auc", "avg_auc", "ppe", "pme"
]

DATASETS = {
    "ddr": "DDR",
    "messidor2": "Messidor-2",
    "isic2018": "ISIC2018",
    "isic2016": "ISIC2016",
    "ddsm": "DDSM",
    "cmmd": "CMMD",
    "covid": "COVID",
    "chncxr": "CHNCXR",
}
"""Datasets of Table I: short name and printed name."""

FULL_MEM_MB = 23128
"""Memory of full fine-tuning in Table I, the denominator of every m in the paper."""

FIGURE7_MB = {"side_only": 8214, "side_mlp": 35682, "side_fusion": 13328, "fptplus": 736}
"""Memory stated in Sec. IV-G1; the values of the two configurations in between are only drawn."""

FIGURE7_AUC = {"side_only": 74.74, "fptplus": 87.12}
FIGURE5_AUC = {6: 87.12, 9: 87.32}
FIGURE8_AUC = {0.2: 87.12}
"""Average AUCs that the text states; the others are only drawn."""


@dataclass(frozen=True, kw_only=True)
class PrintedCell:
    """One number of the paper."""

    table: str
    """Table of the number: I to VI, or Fig. 7."""

    row: str
    """Row as a reader finds it."""

    column: str
    quantity: Quantity
    printed: float | None
    """The printed number; None for `/`, out of memory."""

    decimals: int
    """Number of digits printed after the decimal point."""

    cell: CellConfig | None
    """Configuration whose record answers; None for Table II's preloading pass."""

    dataset: str = ""
    weights: str = "supervised"

    of_row: dict[str, float] | None = None
    """Printed numbers of the same row, from which PPE, PME (performance-to-parameter and performance-to-memory
    efficiency) and the average are computed."""

    full_printed: float | None = None
    """The same number for full fine-tuning."""


@cache
def paper_table(number: int) -> pd.DataFrame:
    """Return a printed table; its columns are those of its CSV file."""
    return pd.read_csv(Path(__file__).parent / f"table{number}.csv")


def printed_cells() -> list[PrintedCell]:
    """Return all printed cells, in the paper's order."""
    return [*_table1(), *_table2(), *_table3(), *_ablations(), *_figure7()]


def _table1() -> Iterator[PrintedCell]:
    table = paper_table(1)
    columns: dict[str, tuple[str, Quantity]] = {
        "params_pct": ("Params.", "params_pct"),
        "mem_mb": ("Mem.", "memory_mib"),
        **{f"{short}_auc": (title, "auc") for short, title in DATASETS.items()},
        "avg_auc": ("Avg.", "avg_auc"),
        "ppe": ("PPE", "ppe"),
        "pme": ("PME", "pme"),
    }
    for row in table.to_dict("records"):
        full = table.query("weights == @row['weights'] and method == 'full'").iloc[0]
        for field, (column, quantity) in columns.items():
            yield PrintedCell(
                table="I",
                row=f"{find_method(row['method']).title}, {row['weights']}",
                column=column,
                quantity=quantity,
                printed=row[field],
                decimals=_decimals(field, row[field]),
                cell=paper_cell(row["method"]),
                dataset=field.removesuffix("_auc") if quantity == "auc" else "",
                weights=row["weights"],
                of_row=row,
                full_printed=full[field],
            )


def _table2() -> Iterator[PrintedCell]:
    columns: dict[str, tuple[str, Quantity]] = {
        "gflops": ("FLOPs", "gmacs"),
        "train_time_s": ("Time", "seconds"),
        "throughput_img_s": ("Throughput", "img_s"),
        "peak_power_w": ("Peak power", "peak_w"),
        "avg_power_w": ("Avg. power", "mean_w"),
    }
    table = paper_table(2)
    for row in table.to_dict("records"):
        is_method = row["method"] in METHODS
        for field, (column, quantity) in columns.items():
            yield PrintedCell(
                table="II",
                row=find_method(row["method"]).title if is_method else "Preloading",
                column=column,
                quantity=quantity,
                printed=row[field],
                decimals=2,
                cell=paper_cell(row["method"]) if is_method else None,
                full_printed=table[field].iloc[0],
            )


def _table3() -> Iterator[PrintedCell]:
    table = paper_table(3)
    for row in table.to_dict("records"):
        full = table.query("method == 'full' and res == @row['res']").iloc[0]
        for field, quantity in (("mem_mb", "memory_mib"), ("avg_auc", "avg_auc")):
            yield PrintedCell(
                table="III",
                row=f"{find_method(row['method']).title}, {row['res']} px",
                column="Mem." if field == "mem_mb" else "Avg. AUC",
                quantity=quantity,
                printed=_none(row[field]),
                decimals=_decimals(field, row[field]),
                cell=table3_cell(row["method"], int(row["res"])),
                full_printed=_none(full[field]),
            )


def _ablations() -> Iterator[PrintedCell]:
    columns: dict[str, tuple[str, Quantity]] = {
        "avg_auc": ("Avg. AUC", "avg_auc"),
        "params_pct": ("Param.", "params_pct"),
        "mem_mb": ("Mem.", "memory_mib"),
        "ppe": ("PPE", "ppe"),
        "pme": ("PME", "pme"),
    }
    numbered = {
        "IV": (4, "side_res", "side", "{} px"),
        "V": (5, "num_prompts", "prompts", "{} prompts"),
        "VI": (6, "reduction_factor", "k", "k = {}"),
    }
    full = paper_table(1).iloc[0]
    for name, (number, varied, short, label) in numbered.items():
        for row in paper_table(number).to_dict("records"):
            value = int(row[varied])
            for field in (field for field in columns if field in row):
                yield PrintedCell(
                    table=name,
                    row=label.format(value),
                    column=columns[field][0],
                    quantity=columns[field][1],
                    printed=row[field],
                    decimals=_decimals(field, row[field]),
                    cell=paper_cell(ablation_name(METHODS["fptplus"], short, value)),
                    of_row=row,
                    full_printed=full[field],
                )


def _figure7() -> Iterator[PrintedCell]:
    for method, mb in FIGURE7_MB.items():
        yield PrintedCell(
            table="Fig. 7",
            row=find_method(method).title,
            column="Mem.",
            quantity="memory_mib",
            printed=mb,
            decimals=0,
            cell=paper_cell(method),
            full_printed=paper_table(1).mem_mb.iloc[0],
        )


def _none(value: float) -> float | None:
    return None if pd.isna(value) else value


def _decimals(field: str, value: float) -> int:
    """Return the number of decimals as printed: memory has none, 33.8 and 100 have fewer than the others."""
    if field == "mem_mb" or value == 100:
        return 0
    return 1 if field == "params_pct" and value == 33.8 else 2
