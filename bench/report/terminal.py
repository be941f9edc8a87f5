"""Tables on the terminal."""

from dataclasses import dataclass
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from bench.cards.gpus import Gpu
from bench.cards.verdict import Word, verdict
from bench.cells.anatomy import Anatomy
from bench.cells.config import CellConfig
from bench.cells.step_options import lora_in_words, shared_in_words
from bench.predict.advice import LARGEST_BATCH, LARGEST_RES, Advice
from bench.predict.contributions import Contribution, largest_groups, largest_tensors, place, taken_by_operators
from bench.predict.prediction import card_of
from bench.records.record import Record
from bench.units import GIB, MIB
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
    for detail in dict.fromkeys(_detail(record) for record in records if record.status == "ok"):
        console.print(f"[dim]{detail}[/]", highlight=False)
    for record in records:
        if record.status != "ok":
            console.print(f"[red]{record.status}[/] {record.method}: {record.status_detail}", highlight=False)


def _detail(record: Record) -> str:
    """What there is to say of a cell that is ok, with its method where that is of it alone."""
    detail = record.status_detail or ""
    return f"{_title(record)}: {detail}" if record.predicted_fits is False and not record.is_measured else detail


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
    how = " and ".join(dict.fromkeys(record.predicted_by or "predicted" for record in records))
    table = plain_table(f"{setting}; MiB {how} on {gpu.name}")
    for heading in ("Method", *(column.heading for column in _PREDICTED), fits):
        table.add_column(heading, justify="left" if heading == "Method" else "right", no_wrap=True)
    for record in records:
        values = [column.show(record) for column in _PREDICTED]
        word = _word(record, gpu)
        table.add_row(_title(record), *values, "" if word is None else FITS[word])
        if word == "maybe":
            _footnote(table, _title(record), gpu)
    return table


def _measured_table(records: list[Record]) -> Table:
    """What was measured of the same cells; a column for each quantity that was."""
    measured = [column for column in _MEASURED if any(getattr(r, column.field) is not None for r in records)]
    devices = dict.fromkeys(record.device for record in records if record.is_measured)
    table = plain_table(f"measured on {', '.join(devices)}; MiB")
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


FITS = {"yes": "yes", "maybe": "[yellow]maybe[/]", "no": "[red]no[/]"}


def _word(record: Record, gpu: Gpu) -> Word | None:
    """Whether a record's step fits the card it was predicted for; None where nothing was predicted."""
    if (reserved_bytes := record.predicted_peak_reserved_bytes) is None:
        return None
    if record.predicted_by is None:  # a record of an earlier version
        return verdict(reserved_bytes, gpu).word
    return fits_on(gpu, record, {True: "yes", False: "no", None: "maybe"}[record.predicted_fits], reserved_bytes)


def fits_on(gpu: Gpu, cell: CellConfig | Record, word: Word, reserved_bytes: int) -> Word:
    """Whether a step fits a card: what a run has said of it, where that was with as much memory.

    Args:
        gpu: the card, with the memory that may be used.
        cell: that was predicted for its own card.
        word: whether it fits that one.
        reserved_bytes: at its peak.
    """
    return word if card_of(cell).memory_bytes == gpu.memory_bytes else verdict(reserved_bytes, gpu).word


def _footnote(table: Table, title: str, gpu: Gpu) -> None:
    """A line below the table where the size of the CUDA context decides."""
    low, high = (size / MIB for size in (gpu.context.low_bytes, gpu.context.high_bytes))
    sentence = f"{title}: whether it fits depends on the CUDA context, known between {low:,.0f} and {high:,.0f} MiB"
    table.caption = "\n".join(filter(None, (table.caption, sentence)))


def advice_table(asked: CellConfig, gpu: Gpu, advice: list[Advice]) -> Table:
    """What each method can do on a GPU."""
    setting = f"{asked.model}, {asked.res} px, batch {asked.batch_size}, {asked.precision}, {asked.attention} attention"
    setting += shared_in_words(asked)
    table = plain_table(f"{setting}; predicted on {gpu.name} with {gpu.memory_bytes / GIB:.2f} GiB")
    for heading in ("Method", "Fits", "Needs MiB", "Headroom MiB", f"Batch at {asked.res} px"):
        table.add_column(heading, justify="left" if heading == "Method" else "right", no_wrap=True)
    table.columns[1].min_width = len("maybe")
    table.add_column(f"Pixels at batch {asked.batch_size}", justify="right", no_wrap=True)
    table.add_column("Would fit with")
    for one in advice:
        remedies = " or ".join(" + ".join(f"{axis} {value}" for axis, value in r.items()) for r in one.remedies)
        if one.fits == "maybe":
            _footnote(table, find_method(one.method).title, gpu)
        table.add_row(
            find_method(one.method).title,
            FITS[one.fits],
            f"{one.process_bytes / MIB:,.0f}",
            f"{one.headroom_bytes / MIB:,.0f}",
            _at_most(one.largest_batch, LARGEST_BATCH),
            _at_most(one.largest_res, LARGEST_RES),
            "" if one.fits == "yes" else remedies or "none of these",
        )
    return table


def tensors_table(title: str, anatomy: Anatomy) -> Table:
    """The largest tensors at a method's peak, the largest places over all blocks, and what operators have taken."""
    table = plain_table(f"{title}: {anatomy.peak.allocated_bytes / MIB:,.0f} MiB allocated at the peak")
    table.add_column("Largest tensors", no_wrap=True)
    table.add_column("For", no_wrap=True)
    table.add_column("MiB", justify="right")
    for allocation in largest_tensors(anatomy):
        table.add_row(place(allocation), allocation.kind, f"{allocation.num_bytes / MIB:,.1f}")
    table.add_section()
    parts = {"Largest places, all blocks together": largest_groups, "Taken by operators": taken_by_operators}
    for heading, groups in parts.items():
        if found := groups(anatomy):
            table.add_row(f"[bold]{heading}[/]")
            for group in found:
                table.add_row(f"{group.where} ({group.count}x)", group.kind, f"{group.num_bytes / MIB:,.1f}")
    return table


def rules_table(title: str, added: list[Contribution]) -> Table:
    """What each rule adds to the predicted memory of a method."""
    table = plain_table(f"{title}: what each rule adds, MiB")
    for heading in ("Rule", "Allocated", "Reserved"):
        table.add_column(heading, justify="left" if heading == "Rule" else "right", no_wrap=True)
    for one in added:
        table.add_row(one.rule, f"{one.allocated_bytes / MIB:,.1f}", f"{one.reserved_bytes / MIB:,.1f}")
    return table


def plain_table(title: str) -> Table:
    """A table without columns, in the looks of all of them."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _at_most(found: int | None, limit: int) -> str:
    """A result of a search that ends at a limit."""
    if found is None:
        return "none"
    return f"{limit} or more" if found >= limit else str(found)
