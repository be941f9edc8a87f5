"""The table of a sweep on the terminal."""

from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from bench.record import Record
from bench.units import mib
from methods import find_method

PLAIN_WIDTH = 160
"""Columns of text where the output is no terminal."""

_SPLIT = ("weights", "gradients", "optimizer", "activations", "temporary", "inputs")


def print_tables(records: list[Record], console: Console, gpu_memory_bytes: int | None = None) -> None:
    """One table for each model, resolution and choice of axes, and a line for whatever is not ok."""
    for setting, group in groupby(records, key=_setting):
        console.print(_table(setting, list(group), gpu_memory_bytes))
    for detail in dict.fromkeys(r.status_detail for r in records if r.status == "ok" and r.status_detail):
        console.print(f"[dim]{detail}[/]", highlight=False)
    for record in records:
        if record.status != "ok":
            console.print(f"[red]{record.status}[/] {record.method}: {record.status_detail}", highlight=False)


def make_console(**options) -> Console:
    """A console that does not fold tables where the output goes to a file or a pipe."""
    console = Console(**options)
    return console if console.is_terminal else Console(**options, width=PLAIN_WIDTH)


def _setting(record: Record) -> str:
    """What the cells of one table share."""
    return (
        f"{record.model}, {record.res} px, batch {record.batch_size}, {record.precision}, "
        f"{record.attention} attention, checkpointing {record.checkpointing}, {record.optimizer}"
    )


def _table(title: str, records: list[Record], gpu_memory_bytes: int | None) -> Table:
    measured = any(record.step_time_s is not None for record in records)
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for heading in (
        "Method",
        "Learnable",
        "%",
        "GMACs/img",
        "GMACs/step",
        "Peak MiB",
        *(s.capitalize() for s in _SPLIT),
    ):
        table.add_column(heading, justify="left" if heading == "Method" else "right", no_wrap=True)
    if gpu_memory_bytes is not None:
        table.add_column("Fits", justify="right")
    if measured:
        table.add_column("Measured MiB", justify="right")
        table.add_column("img/s", justify="right")
    for record in records:
        cells = [find_method(record.method).title, *_numbers(record)]
        if gpu_memory_bytes is not None:
            cells.append(_verdict(record, gpu_memory_bytes))
        if measured:
            cells += [mib(record.measured_peak_allocated_bytes), _number(record.throughput_img_s, ".2f")]
        table.add_row(*cells)
    return table


def _numbers(record: Record) -> list[str]:
    return [
        _number(record.learnable_params, ",d"),
        _number(record.params_pct, ".2f"),
        _number(record.forward_macs, ",.2f", 1e9),
        _number(record.train_step_macs, ",.1f", 1e9),
        mib(record.predicted_peak_allocated_bytes),
        *(mib(getattr(record, f"predicted_{kind}_bytes")) for kind in _SPLIT),
    ]


def _number(value: float | None, style: str, unit: float = 1) -> str:
    return "" if value is None else format(value / unit if unit != 1 else value, style)


def _verdict(record: Record, gpu_memory_bytes: int) -> str:
    if (needed := record.predicted_peak_allocated_bytes) is None:
        return ""
    return "yes" if needed <= gpu_memory_bytes else "[red]no[/]"
