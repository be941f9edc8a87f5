"""Tables on the terminal."""

from dataclasses import dataclass
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from bench.advise import LARGEST_BATCH, LARGEST_RES, Advice
from bench.config import CellConfig
from bench.predict.devices import Gpu
from bench.predict.replay import Peak
from bench.predict.trace import Allocation
from bench.record import Record
from bench.step_options import lora_in_words, shared_in_words
from bench.units import GIB, MIB
from bench.validate import ErrorSummary
from bench.why import Contribution, TensorGroup, place
from methods import find_method

PLAIN_WIDTH = 180
"""Columns of text where the output is no terminal."""


def print_tables(records: list[Record], console: Console, gpu: Gpu) -> None:
    """One table for each model, resolution and choice of axes, and a line for whatever is not ok."""
    for setting, group in groupby(records, key=_setting):
        cells = list(group)
        console.print(_table(setting, cells, gpu))
        if any(record.is_measured for record in cells):
            console.print(_measured_table(cells))
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
        f"{shared_in_words(record)}"
    )


def _title(record: Record) -> str:
    """The method, with hyperparameters that are not its own."""
    return find_method(record.method).title + lora_in_words(record)


def _table(setting: str, records: list[Record], gpu: Gpu) -> Table:
    """The predictions in MiB."""
    fits = f"Fits {gpu.memory_bytes / GIB:.3g} GiB"
    table = _plain_table(f"{setting}; MiB predicted on {gpu.name}")
    for heading in ("Method", *(column.heading for column in _PREDICTED), fits):
        table.add_column(heading, justify="left" if heading == "Method" else "right", no_wrap=True)
    for record in records:
        values = [column.show(record) for column in _PREDICTED]
        table.add_row(_title(record), *values, _verdict(record, gpu))
    return table


def _measured_table(records: list[Record]) -> Table:
    """What was measured of the same cells; a column for each quantity that was."""
    measured = [column for column in _MEASURED if any(getattr(r, column.field) is not None for r in records)]
    devices = dict.fromkeys(record.device for record in records if record.is_measured)
    table = _plain_table(f"measured on {', '.join(devices)}; MiB")
    for heading in ("Method", *(column.heading for column in measured)):
        table.add_column(heading, justify="left" if heading == "Method" else "right", no_wrap=True)
    for record in records:
        if record.is_measured:
            table.add_row(_title(record), *(column.show(record) for column in measured))
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
    _Column("Allocated", "measured_peak_allocated_bytes", unit=MIB),
    _Column("Reserved", "measured_peak_reserved_bytes", unit=MIB),
    _Column("Process", "measured_process_bytes", unit=MIB),
    _Column("Context", "measured_context_bytes", unit=MIB),
    _Column("img/s", "throughput_img_s", ".2f"),
    _Column("img/s from disk", "loader_throughput_img_s", ".2f"),
    _Column("20 epochs s (derived)", "derived_training_time_s"),
    _Column("epochs s", "measured_training_time_s", ",.1f"),
    _Column("Disk MiB/img", "disk_bytes_per_img", ",.2f", MIB),
    _Column("Mean W", "mean_power_w", ".0f"),
    _Column("net J/img", "energy_j_per_img", ",.2f"),
)


def _verdict(record: Record, gpu: Gpu) -> str:
    """Whether the process fits the GPU's memory."""
    if (needed := record.predicted_process_bytes) is None:
        return ""
    return "yes" if needed <= gpu.memory_bytes else "[red]no[/]"


def advice_table(asked: CellConfig, gpu: Gpu, advice: list[Advice]) -> Table:
    """What each method can do on a GPU."""
    setting = f"{asked.model}, {asked.res} px, batch {asked.batch_size}, {asked.precision}, {asked.attention} attention"
    table = _plain_table(f"{setting}; predicted on {gpu.name} with {gpu.memory_bytes / GIB:.2f} GiB")
    for heading in ("Method", "Fits", "Needs MiB", "Headroom MiB", f"Batch at {asked.res} px"):
        table.add_column(heading, justify="left" if heading == "Method" else "right", no_wrap=True)
    table.add_column(f"Pixels at batch {asked.batch_size}", justify="right", no_wrap=True)
    table.add_column("Would fit with")
    for one in advice:
        remedies = " or ".join(" + ".join(f"{axis} {value}" for axis, value in r.items()) for r in one.remedies)
        table.add_row(
            find_method(one.method).title,
            "yes" if one.fits else "[red]no[/]",
            f"{one.process_bytes / MIB:,.0f}",
            f"{one.headroom_bytes / MIB:,.0f}",
            _at_most(one.largest_batch, LARGEST_BATCH),
            _at_most(one.largest_res, LARGEST_RES),
            "" if one.fits else remedies or "none of these",
        )
    return table


def tensors_table(title: str, peak: Peak, largest: list[Allocation], groups: list[TensorGroup]) -> Table:
    """The largest tensors at a method's peak, and the largest places over all blocks."""
    table = _plain_table(f"{title}: {peak.allocated_bytes / MIB:,.0f} MiB allocated at the peak")
    table.add_column("Largest tensors", no_wrap=True)
    table.add_column("For", no_wrap=True)
    table.add_column("MiB", justify="right")
    for allocation in largest:
        table.add_row(place(allocation), allocation.kind, f"{allocation.num_bytes / MIB:,.1f}")
    table.add_section()
    table.add_row("[bold]Largest places, all blocks together[/]")
    for group in groups:
        table.add_row(f"{group.where} ({group.count}x)", group.kind, f"{group.num_bytes / MIB:,.1f}")
    return table


def rules_table(title: str, added: list[Contribution]) -> Table:
    """What each rule adds to the predicted memory of a method."""
    table = _plain_table(f"{title}: what each rule adds, MiB")
    for heading in ("Rule", "Allocated", "Reserved"):
        table.add_column(heading, justify="left" if heading == "Rule" else "right", no_wrap=True)
    for one in added:
        table.add_row(one.rule, f"{one.allocated_bytes / MIB:,.1f}", f"{one.reserved_bytes / MIB:,.1f}")
    return table


def errors_table(summaries: list[ErrorSummary], num_measured: int, num_cells: int) -> Table:
    """How far predictions are from measurements."""
    table = _plain_table(f"Predicted against measured: {num_measured} of {num_cells} cells measured")
    for heading in ("Counter", "Cells", "Median error %", "Worst error %", "Worst cell"):
        table.add_column(heading, justify="left" if heading in ("Counter", "Worst cell") else "right", no_wrap=True)
    for one in summaries:
        numbers = (str(one.num_cells), f"{one.median_pct:.2f}", f"{one.worst_pct:.2f}")
        table.add_row(one.counter, *numbers, one.worst_cell)
    return table


def _plain_table(title: str) -> Table:
    return Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0)
    )


def _at_most(found: int | None, limit: int) -> str:
    """A result of a search that ends at a limit."""
    if found is None:
        return "none"
    return f"{limit} or more" if found >= limit else str(found)
