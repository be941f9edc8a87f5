"""Tables that set one set of numbers beside another."""

import pandas as pd
from rich import box
from rich.table import Table

from bench.compare import Delta
from bench.step_options import axes_in_words
from bench.units import MIB


def comparison_table(deltas: list[Delta], threshold_pct: float, names: tuple[str, str]) -> Table:
    """A row for each quantity of each cell, changes marked.

    Args:
        deltas: of both folders.
        threshold_pct: above which a delta is a change.
        names: of the folders.
    """
    table = Table(
        title=f"{names[0]} → {names[1]}; a change is more than {threshold_pct:g} % and more than the spread",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    for heading in ("Method", "Model", "Axes", "Quantity"):
        table.add_column(heading, no_wrap=True)
    for heading in ("Pixels", "Batch", "Before", "After", "Delta %", "Spread ± %"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for delta in deltas:
        record, is_bytes = delta.record, delta.quantity.name.endswith("_bytes")
        numbers = [f"{n / MIB:,.1f} MiB" if is_bytes else f"{n:,.3f}" for n in (delta.before, delta.after)]
        table.add_row(
            record.method,
            record.model,
            axes_in_words(record),
            delta.quantity.title,
            str(record.res),
            str(record.batch_size),
            *numbers,
            "" if delta.delta_pct is None else f"{delta.delta_pct:+.2f}",
            "" if delta.spread_pct is None else f"{delta.spread_pct:.1f}",
            _verdict(delta, threshold_pct),
        )
    return table


def _verdict(delta: Delta, threshold_pct: float) -> str:
    if delta.is_worse(threshold_pct):
        return "[red]worse[/]"
    if delta.is_change(threshold_pct):
        return "[green]better[/]"
    return "within the spread" if delta.is_within_spread and abs(delta.delta_pct or 0) > threshold_pct else ""


def ratios_table(ratios: pd.DataFrame) -> Table:
    """Measured ratios to full fine-tuning beside the paper's; as of bench.campaign.ratios."""
    table = Table(
        title="In relation to full fine-tuning: measured here, and as the paper prints it",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
    )
    named = {
        "process_ratio": "Process",
        "reserved_ratio": "Reserved",
        "paper_memory_ratio": "Paper",
        "throughput_ratio": "Throughput",
        "paper_throughput_ratio": "Paper",
        "energy_ratio": "Energy net",
        "gross_energy_ratio": "Energy gross",
        "paper_gross_energy_ratio": "Paper",
    }
    for heading in ("Profile", "Model", "Pixels", "Method", "Status", *named.values()):
        is_text = heading in ("Profile", "Model", "Method", "Status")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for row in ratios.itertuples():
        numbers = [getattr(row, name) for name in named]
        shown = ["" if number is None or number != number else f"{number:.3f}" for number in numbers]
        table.add_row(row.profile, row.model, str(row.res), row.method, row.status, *shown)
    return table
