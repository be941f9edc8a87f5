"""`python -m bench timing`: throughput that others measured, and Table II's, compared with what is predicted."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import pandas as pd

from bench.cards.gpus import endless
from bench.emulate.pool import Job
from bench.paper.printed import paper_table
from bench.paper.table2_time import TimedRow, cells_of_table2, predicted_table2
from bench.predict.emulated import work_of
from bench.predict.prediction import card_of
from bench.predict.processes import shared_pool
from bench.report.table_formats import Column, FormatOption, TableView, number, printing
from fptplus.output_folder import writable_folder


@dataclass(frozen=True, kw_only=True)
class TimingConfig(FormatOption):
    """Predict 97 published throughputs of Vision Transformers (ViTs), and Table II of the paper.

    Writes throughput.csv, table2_time.csv and a figure. The exit status is 1 if a bar of the held-out half is missed.
    """

    out: str = "results/published"
    """Folder for the results."""

    fit: bool = False
    """Also fit the model's constants again on their half, and print them."""


@dataclass(frozen=True, kw_only=True)
class HeldRow:
    """A row of Table II: printed and predicted."""

    predicted: TimedRow
    printed: pd.Series

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.predicted.method

    @property
    def throughput_pct(self) -> float:
        """Error of the throughput."""
        return 100 * (self.predicted.throughput_img_s / self.printed["throughput_img_s"] - 1)

    @property
    def time_pct(self) -> float:
        """Error of the total time."""
        return 100 * (self.predicted.train_time_s / self.printed["train_time_s"] - 1)

    @property
    def mean_power_pct(self) -> float:
        """Error of the mean power."""
        return 100 * (self.predicted.mean_power_w / self.printed["avg_power_w"] - 1)

    @property
    def peak_power_pct(self) -> float:
        """Error of the peak power."""
        return 100 * (self.predicted.peak_power_w / self.printed["peak_power_w"] - 1)


def main(config: TimingConfig) -> int:
    """Print the errors by source, and Table II."""
    from bench.published.constants_fit import FITTED, fitted_constants  # these import timm
    from bench.published.throughput_comparison import draw_throughputs, errors_of, hold, throughput_row, write_rows
    from bench.published.throughputs import published_throughputs, recorded

    folder, rows = writable_folder(config.out), published_throughputs()
    works = list(recorded(rows))
    held = [hold(row, work) for row, work in zip(rows, works, strict=True)]
    table2 = hold_table2()
    write_rows([throughput_row(one) for one in held], folder / "throughput.csv")
    write_rows([table2_row(one) for one in table2], folder / "table2_time.csv")
    drawn = [(one.printed["throughput_img_s"], one.predicted.throughput_img_s) for one in table2]
    draw_throughputs(held, drawn, folder / "throughput")
    halves = {"held out": [one for one in held if not one.throughput.is_fitted]}
    halves["fitted on"] = [one for one in held if one.throughput.is_fitted]
    with printing(config.format) as printer:
        errors = [(name, errors_of(half)) for name, half in halves.items()]
        printer.show(map(throughput_row, held), _errors_view(errors), _table2_view(table2))
        if config.fit:
            pairs = [(row, work) for row, work in zip(rows, works, strict=True) if row.is_fitted]
            constants = fitted_constants(*zip(*pairs, strict=True))
            printer.note(", ".join(f"{name} {getattr(constants, name):.4g}" for name in FITTED))
    return int(not errors[0][1].is_met)


def hold_table2() -> list[HeldRow]:
    """Return Table II, printed and predicted.

    Raises:
        CannotEmulate: if the emulated device does not run here.
    """
    cells = cells_of_table2()
    jobs = [Job(gpu=endless(card_of(cell)), arguments=(cell,)) for cell in cells.values()]
    works = dict(zip(cells, shared_pool().map(work_of, jobs), strict=True))
    for answer in works.values():
        if isinstance(answer, Exception):
            raise answer
    printed = paper_table(2).set_index("method")
    return [HeldRow(predicted=row, printed=printed.loc[row.method]) for row in predicted_table2(works)]


def table2_row(one: HeldRow) -> dict[str, str | float]:
    """Return a row of the results: what is predicted, what is printed, and the errors."""
    errors = ("throughput_pct", "time_pct", "mean_power_pct", "peak_power_pct")
    return {
        **{
            f"predicted_{k}" if k not in ("method", "bound_by") else k: _rounded(v)
            for k, v in asdict(one.predicted).items()
        },
        **{f"printed_{name}": one.printed[name] for name in ("train_time_s", "throughput_img_s", "peak_power_w")},
        "printed_mean_power_w": one.printed["avg_power_w"],
        **{f"error_{name}": round(getattr(one, name), 2) for name in errors},
    }


def _rounded(value: str | float) -> str | float:
    return round(value, 2) if isinstance(value, float) else value


def _errors_view(errors: Sequence[tuple[str, object]]) -> TableView:
    return TableView(
        title="Published throughputs of ViTs on RTX 3090 and 4090, predicted",
        columns=(
            Column(heading="Half", show=lambda one: one[0]),
            Column(heading="Rows", show=lambda one: str(one[1].num_rows), is_number=True),
            Column(heading="Median\nerror %", show=lambda one: f"{one[1].median_pct:.1f}", is_number=True),
            Column(heading="90 %\nwithin", show=lambda one: f"{one[1].p90_pct:.1f}", is_number=True),
            Column(heading="Worst\n%", show=lambda one: f"{one[1].worst_pct:.1f}", is_number=True),
            Column(heading="Within\n25 %", show=lambda one: f"{one[1].within_bar:.0%}", is_number=True),
            Column(heading="Pairs in\norder", show=lambda one: f"{one[1].ranking:.0%}", is_number=True),
        ),
        items=list(errors),
    )


def _table2_view(rows: Sequence[HeldRow]) -> TableView:
    full = next(one for one in rows if one.method == "full")
    others = [
        one for one in rows if one.predicted.bound_by == "arithmetic" and one.method not in ("full", "preloading")
    ]
    scale = full.printed["throughput_img_s"] / full.predicted.throughput_img_s
    scaled = [abs(100 * (scale * (1 + one.throughput_pct / 100) - 1)) for one in others]
    sizes = [abs(one.throughput_pct) for one in rows]
    return TableView(
        title="Table II, predicted, less printed in percent",
        columns=(
            Column(heading="Method", show=lambda one: one.method),
            Column(heading="img/s", show=lambda one: f"{one.predicted.throughput_img_s:.1f}", is_number=True),
            number("%", "throughput_pct", "+.1f"),
            Column(heading="Total s", show=lambda one: f"{one.predicted.train_time_s:,.0f}", is_number=True),
            number("%", "time_pct", "+.1f"),
            Column(heading="Mean W", show=lambda one: f"{one.predicted.mean_power_w:.0f}", is_number=True),
            number("%", "mean_power_pct", "+.1f"),
            Column(heading="Peak W", show=lambda one: f"{one.predicted.peak_power_w:.0f}", is_number=True),
            number("%", "peak_power_pct", "+.1f"),
        ),
        items=list(rows),
        notes=[
            f"throughput: median error {median(sizes):.1f} %, worst {max(sizes):.1f} %; with one constant from the row "
            f"of full fine-tuning, the other {len(others)} that run the LPM are within {max(scaled):.1f} %."
        ],
    )
