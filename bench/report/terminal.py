"""The table of a sweep on the terminal."""

from dataclasses import dataclass
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from bench.predict.devices import Gpu
from bench.record import Record
from bench.units import GIB, MIB
from methods import find_method

PLAIN_WIDTH = 180
"""Columns of text where the output is no terminal."""


def print_tables(records: list[Record], console: Console, gpu: Gpu) -> None:
    """One table for each model, resolution and choice of axes, and a line for whatever is not ok."""
    for setting, group in groupby(records, key=_setting):
        console.print(_table(setting, list(group), gpu))
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


def _table(setting: str, records: list[Record], gpu: Gpu) -> Table:
    """The predictions in MiB, and what was measured beside them."""
    fits = f"Fits {gpu.memory_bytes / GIB:.3g} GiB"
    measured = [column for column in _MEASURED if any(getattr(r, column.field) is not None for r in records)]
    table = Table(
        title=f"{setting}; MiB predicted on {gpu.name}",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in ("Method", *(column.heading for column in (*_PREDICTED, *measured)), fits):
        table.add_column(heading, justify="left" if heading == "Method" else "right", no_wrap=True)
    for record in records:
        values = [column.show(record) for column in (*_PREDICTED, *measured)]
        table.add_row(find_method(record.method).title, *values, _verdict(record, gpu))
    return table


@dataclass(frozen=True)
class _Column:
    """A number of a record as the table shows it."""

    heading: str
    field: str
    style: str = ",.0f"
    unit: float = 1

    def show(self, record: Record) -> str:
        value = getattr(record, self.field)
        return "" if value is None else format(value / self.unit, self.style)


_PREDICTED = (
    _Column("Learnable", "learnable_params"),
    _Column("%", "params_pct", ".2f"),
    _Column("GMACs/img", "forward_macs", ",.2f", 1e9),
    _Column("GMACs/step", "train_step_macs", ",.1f", 1e9),
    _Column("Process", "predicted_process_bytes", unit=MIB),
    _Column("Reserved", "predicted_peak_reserved_bytes", unit=MIB),
    _Column("Allocated", "predicted_peak_allocated_bytes", unit=MIB),
    _Column("= weights", "predicted_weights_bytes", unit=MIB),
    _Column("+ grads", "predicted_gradients_bytes", unit=MIB),
    _Column("+ optim", "predicted_optimizer_bytes", unit=MIB),
    _Column("+ activ", "predicted_activations_bytes", unit=MIB),
    _Column("+ temp", "predicted_temporary_bytes", unit=MIB),
    _Column("+ inputs", "predicted_inputs_bytes", unit=MIB),
)
_MEASURED = (
    _Column("Meas. alloc", "measured_peak_allocated_bytes", unit=MIB),
    _Column("Meas. resvd", "measured_peak_reserved_bytes", unit=MIB),
    _Column("img/s", "throughput_img_s", ".2f"),
)


def _verdict(record: Record, gpu: Gpu) -> str:
    """Whether the process fits the GPU's memory."""
    if (needed := record.predicted_process_bytes) is None:
        return ""
    return "yes" if needed <= gpu.memory_bytes else "[red]no[/]"
