"""Figures 1, 2, 5, 7 and 8 of the paper from our records; AUCs are the paper's printed ones, and marked so.

Figures 6 and 9 show what a trained model attends to; whoever trains one puts them into `results/training/`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from textwrap import wrap

from bench.cards.gpus import GPUS
from bench.paper.evidence import PAPER_CARD, Evidence, Number
from bench.paper.printed import FIGURE5_AUC, FIGURE7_AUC, FIGURE7_MB, FIGURE8_AUC, paper_table
from bench.paper.settings import COMPONENTS, FIGURE2_RES, ablated, paper_cell
from bench.units import GIB, MIB
from methods import METHODS, find_method

from .exhibit import Entry, Exhibit, Row, card_of, sources_in_words
from .figures import figure
from .paper_tables import MEMORY_NOTE, PAPER_SOFTWARE_NOTE, SETTING, average_auc, efficiencies

STYLES = {
    "full": ("#000000", "o", "-"),
    "linear": ("#E69F00", "s", "-"),
    "vpt": ("#56B4E9", "^", "-"),
    "attention": ("#009E73", "v", "-"),
    "adapter": ("#777777", "D", "-"),
    "bitfit": ("#CC79A7", "P", "-"),
    "lora": ("#D55E00", "X", "-"),
    "adalora": ("#D55E00", "d", "--"),
    "fpt": ("#0072B2", "h", "--"),
    "fptplus": ("#0072B2", "*", "-"),
}
"""Colour, marker and line of each method."""

GUIDES = ("rtx3060", "rtx3090", "a6000", "a100-80gb")
"""Cards drawn as lines."""


def paper_figures(evidence: Evidence) -> Iterator[Exhibit]:
    """Yield all figures that can be drawn from records, in order."""
    yield figure1(evidence)
    yield figure2(evidence)
    yield _along(evidence, 5, "layers", "Side layers", FIGURE5_AUC, "Figure 5. FPT+ by the side network's layers")
    yield figure7(evidence)
    yield _along(evidence, 8, "ratio", "Token ratio", FIGURE8_AUC, "Figure 8. FPT+ by the ratio of important tokens")


def figure1(evidence: Evidence) -> Exhibit:
    """Return Figure 1: performance against parameters; the size of a dot is the memory."""
    rows: list[Row] = []
    for row in paper_table(1).query("weights == 'supervised'").to_dict("records"):
        cell = paper_cell(row["method"])
        memory = evidence.paper_memory_mib(cell)
        numbers = ((evidence.params_pct(cell), 2), (average_auc(evidence, row), 2), (memory, 0))
        rows.append((find_method(row["method"]).title, *(Entry(number=n, decimals=d) for n, d in numbers)))
    return Exhibit(
        name="figure1",
        title=f"Figure 1. Performance and efficiency, supervised weights, {card_of('figure1', rows)}",
        headings=("Method", "Params. %", "Avg. AUC", "Mem."),
        rows=rows,
        notes=(MEMORY_NOTE, PAPER_SOFTWARE_NOTE),
        draw=partial(_draw_figure1, rows),
    )


_LABELS = {
    "full": (-17, -3, "right"),
    "vpt": (0, 20, "center"),
    "attention": (0, -26, "center"),
    "bitfit": (-17, -3, "right"),
    "lora": (16, -6, "left"),
    "adalora": (-17, -3, "right"),
    "fptplus": (8, 2, "left"),
}
"""Position of each label next to its dot: points across and up, alignment."""


def _draw_figure1(rows: list[Row], path: Path) -> None:
    with figure(path, width=7.5, height=4.6) as axes:
        for method, (title, params, auc, memory) in zip(METHODS, rows, strict=True):
            x, y, mib = params.number.value, auc.number.value, memory.number.value
            axes.scatter(x, y, s=mib / 30, color=STYLES[method][0], alpha=0.75, edgecolor="black", linewidth=0.5)
            across, up, side = _LABELS.get(method, (17, -3, "left"))
            text = f"{title} ({mib:,.0f} MiB)"
            axes.annotate(text, (x, y), (across, up), textcoords="offset points", fontsize=8, ha=side)
        axes.set(xscale="log", xlim=(0.002, 900), ylim=(82.6, 89.6))
        axes.set_xlabel("learnable parameters (%)")
        axes.set_ylabel(f"average AUC ({_whose(auc.number)})")
        axes.set_title("Performance and efficiency; the area is the memory", fontsize=10)
        axes.grid(alpha=0.25)


def _whose(number: Number) -> str:
    return "trained by us" if number.source == "trained" else "as printed in the paper"


def figure2(evidence: Evidence) -> Exhibit:
    """Return Figure 2: memory against resolution."""
    needed = {m: [evidence.needed_mib(paper_cell(m, res=res)) for res in FIGURE2_RES] for m in METHODS}
    rows = [(find_method(m).title, *(Entry(number=number) for number in numbers)) for m, numbers in needed.items()]
    setting = f"ViT-B, {SETTING}, {card_of('figure2', rows)}"
    return Exhibit(
        name="figure2",
        title=f"Figure 2. Memory against resolution: {setting}",
        headings=("Method", *(f"{res} px" for res in FIGURE2_RES)),
        rows=rows,
        notes=(MEMORY_NOTE, "FPT and FPT+: training on preloaded features; the preloading pass is in fair_preloading."),
        draw=partial(_draw_figure2, needed, setting),
    )


def _draw_figure2(needed: dict[str, list[Number]], setting: str, path: Path) -> None:
    with figure(path, width=8.5, height=5) as axes:
        for method, numbers in needed.items():
            color, marker, line = STYLES[method]
            gib = [number.value * MIB / GIB for number in numbers]
            axes.plot(FIGURE2_RES, gib, line, color=color, marker=marker, markersize=5, label=find_method(method).title)
        for name in GUIDES:
            capacity = GPUS[name].memory_bytes / GIB
            axes.axhline(capacity, color="#B00000", linewidth=0.8, linestyle=":")
            axes.text(130, capacity * 1.05, f"{GPUS[name].title}, {capacity:.1f} GiB", fontsize=7.5, color="#B00000")
        ticks = [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
        axes.set(yscale="log", xscale="log", xlabel="resolution (px)", ylabel="process memory (GiB)")
        axes.set_xticks(FIGURE2_RES, [str(res) for res in FIGURE2_RES], rotation=45)
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.2)
        sources = sources_in_words(number for numbers in needed.values() for number in numbers)
        axes.set_title(f"Memory against resolution, {sources}\n{setting}", fontsize=10)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8.5)


def figure7(evidence: Evidence) -> Exhibit:
    """Return Figure 7: memory as components are added one by one."""
    rows: list[Row] = []
    for method in COMPONENTS:
        cell = paper_cell(method)
        mb, auc = FIGURE7_MB.get(method), FIGURE7_AUC.get(method)
        entries = (
            Entry(number=evidence.memory_mib(cell)),
            Entry(number=mb and Number(value=mb, source="printed", record="Sec. IV-G1", card=PAPER_CARD)),
            Entry(number=auc and Number(value=auc, source="printed", record="Sec. IV-G1"), decimals=2),
        )
        rows.append((_COMPONENT_TITLES[method], *entries))
    return Exhibit(
        name="figure7",
        title=f"Figure 7. Components of FPT+ added one by one: ViT-B, 512 px, {SETTING}, {card_of('figure7', rows)}",
        headings=("Configuration", "Mem.", "Mem. printed", "Avg. AUC"),
        rows=rows,
        notes=(MEMORY_NOTE, "The paper states the memory of four of the six configurations and describes none."),
        draw=partial(_draw_figure7, rows),
    )


_COMPONENT_TITLES = {
    "side_only": "side network alone",
    "side_mlp": "LPM features by MLP",
    "side_fusion": "fusion modules instead",
    "side_fusion_asymmetric": "and asymmetric input",
    "fptplus_live": "and token selection",
    "fptplus": "and preloading",
}


def _draw_figure7(rows: list[Row], path: Path) -> None:
    sources = sources_in_words(row[1].number for row in rows)
    with figure(path, width=8, height=4) as axes:
        for at, (_, ours, print_, auc) in enumerate(rows):
            bars = ((ours, at - 0.2, "#0072B2", f"ours, {sources}"), (print_, at + 0.2, "#BBBBBB", "printed"))
            for entry, x, color, label in bars:
                if entry.number:
                    axes.bar(x, entry.number.value, 0.38, color=color, label=label if at == 0 else None)
                    axes.text(x, entry.number.value, f"{entry.number.value:,.0f}", ha="center", va="bottom", fontsize=8)
            if auc.number:
                axes.text(at, 41500, f"AUC {auc.number.value:.2f} (printed)", ha="center", fontsize=8)
        axes.set_xticks(range(len(rows)), ["\n".join(wrap(row[0], 14)) for row in rows], fontsize=8.5)
        axes.set(ylabel="process memory (MiB)", ylim=(0, 45000), title="Memory of FPT+'s components, one by one")
        axes.legend(frameon=False, loc="center right")


def _along(
    evidence: Evidence, number: int, short: str, heading: str, stated: dict[float, float], title: str
) -> Exhibit:
    """Return parameters and memory along one hyperparameter, with the AUCs that the text states."""
    rows: list[Row] = []
    for value, cell in ablated(short):
        params, memory = evidence.params_pct(cell), evidence.memory_mib(cell)
        auc = Number(value=stated[value], source="printed", record="Sec. IV-F, IV-G") if value in stated else None
        both = efficiencies(evidence, auc, params.value, memory) if auc else (None, None)
        numbers = ((params, 2), (memory, 0), (auc, 2), *((one, 2) for one in both))
        rows.append((f"{value:g}", *(Entry(number=one, decimals=decimals) for one, decimals in numbers)))
    card = card_of(f"figure{number}", rows)
    return Exhibit(
        name=f"figure{number}",
        title=f"{title}: ViT-B, 512 px, {card}",
        headings=(heading, "Params. %", "Mem.", "Avg. AUC", "PPE", "PME"),
        rows=rows,
        notes=(MEMORY_NOTE, "AUCs are given where the text states them; the others are only drawn in the paper."),
        draw=partial(_draw_along, heading, rows, card),
    )


def _draw_along(heading: str, rows: list[Row], card: str, path: Path) -> None:
    with figure(path, width=7, height=4) as axes:
        values, memory = [float(row[0]) for row in rows], [row[2].number for row in rows]
        label = f"memory (MiB), {sources_in_words(memory)}"
        axes.plot(values, [number.value for number in memory], "o-", color="#0072B2", label=label)
        axes.set(xlabel=heading.lower(), ylabel="process memory (MiB)", title=f"FPT+: ViT-B, 512 px, {SETTING}, {card}")
        axes.set_xticks(values, [row[0] for row in rows])
        axes.set_ylim(0, 1.25 * max(row[2].number.value for row in rows))
        params = axes.twinx()
        params.spines["top"].set_visible(False)
        params.plot(values, [row[1].number.value for row in rows], "s--", color="#D55E00", label="parameters (%)")
        params.set(ylabel="learnable parameters (%)", ylim=(0, 2.5 * max(row[1].number.value for row in rows)))
        for value, row in zip(values, rows, strict=True):
            if row[3].number:
                at, text = (value, row[2].number.value), f"AUC {row[3].number.value:.2f} (printed)"
                axes.plot(*at, "*", color="black", markersize=13)
                axes.annotate(text, at, (0, 28), textcoords="offset points", ha="center", fontsize=8.5)
        handles = [artist for one in (axes, params) for artist in one.get_legend_handles_labels()[0]]
        axes.legend(handles=handles, frameon=False, loc="upper left")
