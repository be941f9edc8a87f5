"""Data for the scripts of the HTML report: records, cards, the grid, the paper check; plain values for JSON."""

from bench.cards.gpus import GPUS
from bench.cells.step_options import lora_in_words, shared_in_words
from bench.paper.check import Comparison
from bench.paper.evidence import Evidence, measured_card, predicted_card, predicted_source
from bench.paper.printed import paper_table
from bench.paper.settings import paper_cell
from bench.predict.fit_grid import BATCHES, KERNELS, MODELS, RES, GridRow
from bench.records.record import Record
from bench.units import MIB
from methods import METHODS, find_method

from .exhibit import sources_in_words
from .figures import BOTTOM_UP, COLORS
from .paper_figures import GUIDES, STYLES
from .paper_tables import average_auc, table2_number

_FORMS = {"o": "circle", "s": "square", "^": "up", "v": "down", "D": "diamond", "d": "diamond"}
_FORMS |= {"P": "plus", "X": "cross", "h": "hexagon", "*": "star"}
_SHORT = {"vpt": "Prompt-tuning"}


def page_data(evidence: Evidence, grid: list[GridRow], comparisons: list[Comparison]) -> dict:
    """Return all data, ready for JSON."""
    records = evidence.records()
    return {
        "methods": _methods(),
        "columns": [column for column, _ in _COLUMNS],
        "rows": [[value(record) for _, value in _COLUMNS] for record in records],
        "records": [_charted(record) for record in records if record.predicted_process_bytes is not None],
        "parts": {part: COLORS[part] for part in (*BOTTOM_UP, "cached", "context")},
        "paper_setting": f"{_setting(evidence.record(paper_cell('full')))}, 512 px",
        "cards": _cards(),
        "grid": _grid(grid),
        "pareto": _pareto(evidence),
        "check": _check(comparisons),
    }


def _methods() -> list[dict]:
    return [
        {
            "name": name,
            "title": method.title,
            "short": _SHORT.get(name, method.title),
            "color": STYLES[name][0],
            "form": _FORMS[STYLES[name][1]],
            "dashed": STYLES[name][2] == "--",
        }
        for name, method in METHODS.items()
    ]


def memory_source(record: Record) -> str:
    """Return where a record's memory comes from: measured on a GPU, emulated, or predicted by the meta trace."""
    return "measured" if record.measured_peak_allocated_bytes is not None else predicted_source(record.predicted_by)


def _card(record: Record) -> str:
    return measured_card(record) if memory_source(record) == "measured" else predicted_card(record.gpu)


def _mib(num_bytes: int | None) -> float | None:
    return None if num_bytes is None else round(num_bytes / MIB)


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else round(value / unit, 3)


def _process_mib(record: Record) -> float | None:
    measured = record.measured_process_bytes
    return _mib(record.predicted_process_bytes if measured is None else measured)


def _number(title: str, decimals: int = 0) -> dict:
    return {"title": title, "decimals": decimals, "number": True}


_COLUMNS = (
    ({"title": "Method"}, lambda r: find_method(r.method).title),
    ({"title": "Model"}, lambda r: r.model),
    (_number("px"), lambda r: str(r.res)),
    (_number("Batch"), lambda r: str(r.batch_size)),
    ({"title": "Precision"}, lambda r: r.precision),
    ({"title": "Attention"}, lambda r: r.attention),
    ({"title": "Checkpointing"}, lambda r: r.checkpointing),
    ({"title": "Optimizer"}, lambda r: r.optimizer),
    ({"title": "Step"}, lambda r: (shared_in_words(r) + lora_in_words(r)).removeprefix(", ")),
    (_number("Learnable"), lambda r: r.learnable_params),
    (_number("%", 2), lambda r: _scaled(r.params_pct, 1)),
    (_number("GMACs/image", 2), lambda r: _scaled(r.forward_macs, 1e9)),
    (_number("GMACs/step", 1), lambda r: _scaled(r.train_step_macs, 1e9)),
    (_number("Process MiB"), _process_mib),
    (_number("Allocated MiB"), lambda r: _mib(r.predicted_peak_allocated_bytes)),
    (_number("Activations MiB"), lambda r: _mib(r.predicted_activations_bytes)),
    (_number("Images/s, measured", 1), lambda r: r.throughput_img_s),
    (_number("Images/s, predicted", 1), lambda r: r.predicted_throughput_img_s),
    (_number("J/image, predicted", 1), lambda r: r.predicted_energy_j_per_img),
    ({"title": "Memory is"}, memory_source),
    ({"title": "Card"}, _card),
    ({"title": "Record"}, lambda r: r.cell_id),
)
"""Columns of the table of all records: heading, and how to get the value from a record."""


def _setting(record: Record) -> str:
    checkpointing = ", checkpointing" if record.checkpointing == "block" else ""
    attention = "explicit" if record.attention == "eager" else record.attention
    return (
        f"{record.model}, batch {record.batch_size}, {record.precision}, {attention} attention{checkpointing}, "
        f"{record.optimizer}{shared_in_words(record)}, {_card(record)}"
    )


def _charted(record: Record) -> dict:
    parts = {part: _mib(getattr(record, f"predicted_{part}_bytes")) for part in BOTTOM_UP}
    reserved, allocated = record.predicted_peak_reserved_bytes, record.predicted_peak_allocated_bytes
    parts |= {"cached": _mib(reserved - allocated), "context": _mib(record.predicted_process_bytes - reserved)}
    return {
        "method": record.method,
        "res": record.res,
        "setting": _setting(record),
        "process_mib": _process_mib(record),
        "predicted_mib": _mib(record.predicted_process_bytes),
        "source": memory_source(record),
        "parts": parts,
    }


def _cards() -> list[dict]:
    return [
        {
            "name": gpu.name,
            "title": gpu.title,
            "mib": _mib(gpu.memory_bytes),
            "context_mib": _mib(gpu.context_bytes),
            "guide": gpu.name in GUIDES,
        }
        for gpu in sorted(GPUS.values(), key=lambda gpu: gpu.memory_bytes)
    ]


def _grid(rows: list[GridRow]) -> dict:
    kernel_of = {tuple(axes.values()): name for name, axes in KERNELS.items()}

    def key(row: GridRow) -> str:
        kernel = kernel_of[row.precision, row.attention]
        return f"{row.method}|{row.model}|{row.res}|{kernel}|{row.checkpointing}"

    return {
        "models": MODELS,
        "res": RES,
        "batches": BATCHES,
        "kernels": list(KERNELS),
        "rows": {key(row): row.reserved_mib for row in rows},
        "sources": {key(row): list(map(predicted_source, row.predicted_by)) for row in rows},
    }


_PARETO = (
    ("process_mib", "process memory (MiB)", False),
    ("params_pct", "learnable parameters (%)", False),
    ("step_gmacs", "GMACs a training step", False),
    ("auc", "average AUC, supervised", True),
)
"""Axes of the chart: name, title, and whether high is good."""

_PARETO_TABLE2 = {
    "seconds": ("training time (s)", "train_time_s", False),
    "img_s": ("images/s", "throughput_img_s", True),
    "mean_w": ("average power (W)", "mean_power_w", False),
}
"""Further axes, from Table II: title, column of ours, and whether high is good."""


def _pareto(evidence: Evidence) -> dict:
    table2 = {row["method"]: row for row in paper_table(2).to_dict("records")}
    times = {
        name: {method: table2_number(evidence, table2[method], column) for method in METHODS}
        for name, (_, column, _) in _PARETO_TABLE2.items()
    }
    rows = []
    for row in paper_table(1).query("weights == 'supervised'").to_dict("records"):
        method, record = row["method"], evidence.record(paper_cell(row["method"]))
        rows.append(
            {
                "method": method,
                "process_mib": _process_mib(record),
                "params_pct": round(record.params_pct, 4),
                "step_gmacs": _scaled(record.train_step_macs, 1e9),
                "auc": round(average_auc(evidence, row).value, 2),
                **{name: round(numbers[method].value, 2) for name, numbers in times.items()},
            }
        )
    columns = [{"name": name, "title": title, "high_is_good": high} for name, title, high in _PARETO]
    for name, (title, _, high) in _PARETO_TABLE2.items():
        sources = sources_in_words(times[name].values())
        columns.append({"name": name, "title": f"{title}, {sources}", "high_is_good": high})
    return {"columns": columns, "rows": rows}


def _check(comparisons: list[Comparison]) -> dict:
    columns = [
        {"title": "Table"},
        {"title": "Row"},
        {"title": "Column"},
        {"title": "Verdict"},
        _number("Printed", 2),
        _number("Ours", 2),
        _number("Difference", 2),
        _number("%", 1),
        _number("Of full, printed", 3),
        _number("Of full, ours", 3),
        _number("True count", 2),
        {"title": "Reason"},
        {"title": "Ours is"},
    ]
    rows = []
    for one in comparisons:
        cell, ours = one.printed_cell, one.ours
        relative = None if one.relative is None else 100 * one.relative
        numbers = (one.difference, relative, one.ratio_printed, one.ratio_ours, one.true_value)
        rows.append(
            [
                cell.table,
                cell.row,
                cell.column,
                one.verdict,
                "/" if cell.printed is None else cell.printed,
                None if ours is None else "/" if ours.value is None else round(ours.value, 4),
                *(None if number is None else round(number, 4) for number in numbers),
                one.reason + (" LEFT ITS BAND" if one.left_band else ""),
                ours.source if ours else "",
            ]
        )
    return {"columns": columns, "rows": rows}
