"""Measured, emulated and traced memory side by side on the terminal."""

import pandas as pd
from rich.table import Table

from bench.units import MIB
from bench.validate import COUNTERS, ENGINES, ErrorSummary

from .terminal import plain_table


def validation_table(errors: pd.DataFrame) -> Table:
    """A row for each measured cell: each counter as measured, and how far both engines are from it.

    Args:
        errors: as of bench.validate.errors.
    """
    table = plain_table("Measured in MiB; emulated and traced against it in %")
    for heading in ("Method", "Cell"):
        table.add_column(heading, no_wrap=True)
    for counter in COUNTERS:
        for heading in (counter.capitalize(), *ENGINES):
            table.add_column(heading, justify="right", no_wrap=True)
    settings = ["method", "model", "res", "batch_size", "precision", "attention", "checkpointing"]
    for (method, *setting), rows in errors.groupby(settings, sort=False):
        by_counter = rows.set_index("counter")
        shown = [text for counter in COUNTERS for text in _counter(by_counter, counter)]
        model, res, batch_size, precision, attention, checkpointing = setting
        kept = "" if checkpointing == "none" else f", checkpointing {checkpointing}"
        table.add_row(method, f"{model} {res} px, batch {batch_size}, {precision}, {attention}{kept}", *shown)
    return table


def _counter(rows: pd.DataFrame, counter: str) -> list[str]:
    """A measured size, and the errors of the engines; empty where NVML or an engine said nothing."""
    if counter not in rows.index:
        return [""] * (1 + len(ENGINES))
    off = [rows.loc[counter, f"{engine}_error_pct"] for engine in ENGINES]
    return [f"{rows.loc[counter, 'measured_bytes'] / MIB:,.0f}", *("" if pd.isna(e) else f"{e:+.2f}" for e in off)]


def errors_table(summaries: list[ErrorSummary], num_measured: int, num_cells: int) -> Table:
    """How far each engine is from the measurements."""
    table = plain_table(f"Predicted against measured: {num_measured} of {num_cells} cells measured")
    for heading in ("Counter", "By", "Cells", "Median error %", "Worst error %", "Worst cell"):
        is_text = heading in ("Counter", "By", "Worst cell")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for one in summaries:
        numbers = (str(one.num_cells), f"{one.median_pct:.2f}", f"{one.worst_pct:.2f}")
        table.add_row(one.counter, one.engine, *numbers, one.worst_cell)
    return table
