"""Tables for people of predictions and measurements, for `run`, `advise` and `why`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby

from bench.cards.gpus import Gpu
from bench.cards.verdict import Word, verdict
from bench.cells.anatomy import Anatomy
from bench.cells.config import CellConfig
from bench.cells.step_options import lora_in_words, shared_in_words
from bench.predict.advice import LARGEST_BATCH, LARGEST_RES, REMEDIES, Advice
from bench.predict.contributions import Contribution, largest_groups, largest_tensors, place, taken_by_operators
from bench.predict.prediction import card_of
from bench.records.record import Record
from bench.units import GIB, MIB
from methods import find_method

from .table_formats import Column, Printer, TableView, number

WIDE_SPREAD = 0.1
"""Spread of a step's time above which it is printed with it."""

FITS_STYLES = {"maybe": "yellow", "no": "red"}


def print_records(records: Sequence[Record], printer: Printer, gpu: Gpu) -> None:
    """Print one table for each model, resolution and choice of axes, and a line for everything that is not ok."""
    views = [
        view for setting, group in groupby(records, key=setting_of) for view in _run_views(setting, list(group), gpu)
    ]
    printer.show(map(asdict, records), *views)
    for detail in dict.fromkeys(_detail(record) for record in records if record.status == "ok"):
        printer.note(detail, "dim")
    for record in records:
        if record.status != "ok":
            printer.note(f"{record.status} {record.method}: {record.status_detail}", "red")


def _detail(record: Record) -> str:
    """Return what there is to say about a cell that is ok, with its method if it concerns that cell only."""
    detail = record.status_detail or ""
    return f"{titled(record)}: {detail}" if record.predicted_fits is False and not record.is_measured else detail


def setting_of(one: CellConfig | Record) -> str:
    """Return what the cells of one table share."""
    return (
        f"{one.model}, {one.res} px, batch {one.batch_size}, {one.precision}, "
        f"{one.attention} attention, checkpointing {one.checkpointing}, {one.optimizer}"
        f"{shared_in_words(one)}"
    )


def titled(one: CellConfig | Record) -> str:
    """Return the method's title, with hyperparameters that are not its defaults."""
    return find_method(one.method).title + lora_in_words(one)


def named(one: CellConfig | Record) -> str:
    """Return the method's name, with hyperparameters that are not its defaults."""
    return one.method + lora_in_words(one)


def _run_views(setting: str, records: list[Record], gpu: Gpu) -> Iterator[TableView]:
    """Yield the predictions for the cells of one setting and, if anything was measured, the measurements."""
    how = " and ".join(dict.fromkeys(record.predicted_by or "predicted" for record in records))
    has_time = any(record.predicted_step_time_s is not None for record in records)
    yield TableView(
        title=f"{setting}; MiB {how} on {gpu.name} with {gpu.memory_bytes / GIB:.3g} GiB"
        + ("; time and energy predicted" if has_time else ""),
        columns=(
            Column(heading="Method", show=titled),
            *_PREDICTED,
            Column(heading="Fits", show=lambda one: _word(one, gpu) or "", is_number=True, styles=FITS_STYLES),
        ),
        items=records,
        notes=[context_decides(titled(record), gpu) for record in records if _word(record, gpu) == "maybe"],
    )
    if measured := [record for record in records if record.is_measured]:
        devices = ", ".join(dict.fromkeys(record.device for record in measured))
        columns = (Column(heading="Method", show=titled), *_MEASURED)
        notes = [_spread_in_words(record) for record in measured if (record.step_time_spread or 0) > WIDE_SPREAD]
        yield TableView(title=f"measured on {devices}; MiB", columns=columns, items=measured, notes=notes)


def _spread_in_words(record: Record) -> str:
    median, low, high = (1e3 * s for s in (record.step_time_s, record.step_time_p10_s, record.step_time_p90_s))
    return (
        f"{titled(record)}: its steps' times vary by ±{record.step_time_spread:.0%}, 80 % of them within {low:,.3g} "
        f"to {high:,.3g} ms (median {median:,.3g}); was the machine busy?"
    )


def _rounded(heading: str, name: str, unit: float) -> Column:
    """Return a column of numbers with a decimal only if they are small."""

    def show(record: Record) -> str:
        value = getattr(record, name)
        return "" if value is None else f"{value / unit:,.{1 if value < 1000 * unit else 0}f}"

    return Column(heading=heading, show=show, is_number=True)


_PREDICTED = (
    number("Learnable", "learnable_params", is_extra=True),
    number("Learn-\nable %", "params_pct", ".2f"),
    number("GMACs\n/image", "forward_macs", ",.2f", 1e9, is_extra=True),
    replace(_rounded("GMACs\n/step", "train_step_macs", 1e9), is_extra=True),
    number("Process", "predicted_process_bytes", unit=MIB),
    number("Reserved", "predicted_peak_reserved_bytes", unit=MIB, is_extra=True),
    number("Allocated", "predicted_peak_allocated_bytes", unit=MIB),
    number("Weights", "predicted_weights_bytes", unit=MIB, is_extra=True),
    number("Gradi-\nents", "predicted_gradients_bytes", unit=MIB, is_extra=True),
    number("Opti-\nmizer", "predicted_optimizer_bytes", unit=MIB, is_extra=True),
    number("Activa-\ntions", "predicted_activations_bytes", unit=MIB, is_extra=True),
    number("Tempo-\nrary", "predicted_temporary_bytes", unit=MIB, is_extra=True),
    number("Inputs", "predicted_inputs_bytes", unit=MIB, is_extra=True),
    _rounded("Images\n/s", "predicted_throughput_img_s", 1),
    _rounded("J\n/image", "predicted_energy_j_per_img", 1),
    number("Mean\nW", "predicted_mean_power_w", is_extra=True),
    Column(heading="Bound by", show=lambda one: one.predicted_bound_by or "", is_extra=True),
)
_MEASURED = (
    number("Process", "measured_process_bytes", unit=MIB),
    number("Reserved", "measured_peak_reserved_bytes", unit=MIB),
    number("Allocated", "measured_peak_allocated_bytes", unit=MIB),
    number("Context", "measured_context_bytes", unit=MIB, is_extra=True),
    number("Images\n/s", "throughput_img_s", ",.2f"),
    number("Images/s\nfrom disk", "loader_throughput_img_s", ",.2f", is_extra=True),
    number("20 epochs\nderived, s", "derived_training_time_s", is_extra=True),
    number("Epochs\ns", "measured_training_time_s", ",.1f", is_extra=True),
    number("Disk MiB\n/image", "disk_bytes_per_img", ",.2f", MIB, is_extra=True),
    number("Mean\nW", "mean_power_w", ".0f"),
    number("Net J\n/image", "energy_j_per_img", ",.2f"),
)


def _word(record: Record, gpu: Gpu) -> Word | None:
    """Whether a record's step fits the card it was predicted for; None if nothing was predicted."""
    if (reserved_bytes := record.predicted_peak_reserved_bytes) is None:
        return None
    if record.predicted_by is None:  # a record from an earlier version
        return verdict(reserved_bytes, gpu).word
    return fits_on(gpu, record, {True: "yes", False: "no", None: "maybe"}[record.predicted_fits], reserved_bytes)


def fits_on(gpu: Gpu, cell: CellConfig | Record, word: Word, reserved_bytes: int) -> Word:
    """Whether a step fits a card; a run on a card with as much memory decides, if there was one.

    Args:
        gpu: the card, with the memory that may be used.
        cell: the cell, predicted for its own card.
        word: whether it fits its own card.
        reserved_bytes: reserved memory at its peak.
    """
    return word if card_of(cell).memory_bytes == gpu.memory_bytes else verdict(reserved_bytes, gpu).word


def context_decides(title: str, gpu: Gpu) -> str:
    """Return the note below a table if the size of the CUDA context decides whether a method fits."""
    low, high = (size / MIB for size in (gpu.context.low_bytes, gpu.context.high_bytes))
    return f"{title}: whether it fits depends on the CUDA context, known between {low:,.0f} and {high:,.0f} MiB"


def advice_view(asked: CellConfig, gpu: Gpu, advice: Sequence[Advice]) -> TableView:
    """Return what each method can do on a GPU and, below, what would make the others fit."""
    titles = {one.method: find_method(one.method).title for one in advice}
    notes = [context_decides(titles[one.method], gpu) for one in advice if one.fits == "maybe"]
    notes += [f"{titles[one.method]} {_would_fit(one)}." for one in advice if one.fits != "yes"]
    setting = f"{asked.model}, {asked.res} px, batch {asked.batch_size}, {asked.precision}, {asked.attention} attention"
    return TableView(
        title=f"{setting}{shared_in_words(asked)}; predicted on {gpu.name} with {gpu.memory_bytes / GIB:.2f} GiB",
        columns=(
            Column(heading="Method", show=lambda one: titles[one.method]),
            Column(heading="Fits", show=lambda one: one.fits, is_number=True, styles=FITS_STYLES),
            number("Needs\nMiB", "process_bytes", unit=MIB),
            number("Headroom\nMiB", "headroom_bytes", unit=MIB),
            Column(
                heading=f"Largest batch\nat {asked.res} px",
                show=lambda one: _at_most(one.largest_batch, LARGEST_BATCH),
                is_number=True,
            ),
            Column(
                heading=f"Largest px\nat batch {asked.batch_size}",
                show=lambda one: _at_most(one.largest_res, LARGEST_RES),
                is_number=True,
            ),
        ),
        items=advice,
        notes=notes,
    )


def _would_fit(advice: Advice) -> str:
    """Return the end of a sentence that begins with the method."""
    if not advice.remedies:
        return f"would not fit with any change of {', '.join(REMEDIES)}"
    return f"would fit with {remedies_in_words(advice)}".replace(" or ", ", or with ")


def remedies_in_words(advice: Advice) -> str:
    """Describe changes that would make a method fit, as `attention sdpa or precision bf16 + checkpointing block`."""
    return " or ".join(" + ".join(f"{axis} {value}" for axis, value in one.items()) for one in advice.remedies)


def _at_most(found: int | None, limit: int) -> str:
    """Return the result of a search that ends at a limit."""
    if found is None:
        return "none"
    return f"{limit} or more" if found >= limit else str(found)


@dataclass(frozen=True, kw_only=True)
class PeakPart:
    """One line of what a method's peak consists of."""

    part: str
    """List that the line belongs to."""

    where: str
    """Module and operator that made the memory."""

    kind: str
    """Kind of memory, such as activations."""

    count: int
    """Number of tensors."""

    allocated_bytes: int | None


_PARTS = {"Largest places, all blocks together": largest_groups, "Taken by operators": taken_by_operators}


def peak_parts(anatomy: Anatomy) -> list[PeakPart]:
    """Return the largest tensors at a method's peak, the largest places over all blocks, and operators' own memory."""
    tensors = [
        PeakPart(part="Largest tensors", where=place(one), kind=one.kind, count=1, allocated_bytes=one.num_bytes)
        for one in largest_tensors(anatomy)
    ]
    return tensors + [
        PeakPart(part=part, where=one.where, kind=one.kind, count=one.count, allocated_bytes=one.num_bytes)
        for part, groups in _PARTS.items()
        for one in groups(anatomy)
    ]


def peak_view(title: str, anatomy: Anatomy) -> TableView:
    """Return the table of what a method's peak consists of."""
    items: list[PeakPart] = []
    for part, group in groupby(peak_parts(anatomy), key=lambda part: part.part):
        headings = ("", part) if items else ()
        items += [PeakPart(part=part, where=text, kind="", count=1, allocated_bytes=None) for text in headings]
        items += group
    return TableView(
        title=f"{title}: {anatomy.peak.allocated_bytes / MIB:,.0f} MiB allocated at the peak",
        columns=(
            Column(heading="Largest tensors", show=_place, styles=dict.fromkeys(_PARTS, "bold")),
            Column(heading="For", show=lambda part: part.kind),
            number("MiB", "allocated_bytes", ",.1f", MIB),
        ),
        items=items,
    )


def _place(one: PeakPart) -> str:
    is_group = one.part in _PARTS and one.allocated_bytes is not None
    return f"{one.where} ({one.count}x)" if is_group else one.where


def rules_view(title: str, added: Sequence[Contribution]) -> TableView:
    """Return the table of what each rule adds to the predicted memory of a method."""
    return TableView(
        title=f"{title}: what each rule adds, MiB",
        columns=(
            Column(heading="Rule", show=lambda one: one.rule),
            number("Allocated", "allocated_bytes", ",.1f", MIB),
            number("Reserved", "reserved_bytes", ",.1f", MIB),
        ),
        items=added,
    )
