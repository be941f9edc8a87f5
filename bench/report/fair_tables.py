"""The comparison that the paper lacks: its tables with settings that cost the baselines nothing, preloading charged."""

from collections.abc import Iterator
from dataclasses import replace

from bench.paper.evidence import Evidence, Number, predicted_card, predicted_source
from bench.paper.preloading_cost import PreloadingCost
from bench.paper.printed import paper_table
from bench.paper.settings import LARGE_RES, LARGE_SETTINGS, SETTINGS, on_vit_l, paper_cell, table3_cell
from bench.units import MIB
from fptplus.training.efficiency import performance_efficiency
from methods import METHODS, find_method

from .exhibit import Entry, Exhibit, Row, card_of
from .paper_tables import MEMORY_NOTE, average_auc

PRELOADED = ("fpt", "fptplus")
SIDE_LAYERS_NOTE = (
    "FPT+ trains with 6 side layers, as in Table III, on the present PyTorch; its preloading pass keeps those of 12."
)
CHARGED_NOTE = (
    "FPT and FPT+ charged: the larger of training and preloading, which run one after the other on the same card; "
    "checkpointing and the optimizer do not matter to preloading."
)


def fair_tables(evidence: Evidence, passes: list[PreloadingCost]) -> Iterator[Exhibit]:
    """Yield all tables of the fair comparison."""
    yield fair_table1(evidence, passes)
    yield fair_efficiency(evidence, passes)
    yield fair_table3(evidence, passes)
    yield preloading_table(passes)


def charged_mib(
    evidence: Evidence, passes: list[PreloadingCost], method: str, model: str, res: int, setting: str
) -> Number:
    """Return the memory of a method, preloading included: the larger of the two, with its source.

    Raises:
        InvalidInput: if the two belong to different cards.
    """
    axes = SETTINGS[setting]
    trained = on_vit_l(method) if model == "vit_l" else method
    training = evidence.needed_mib(paper_cell(trained, model, res, **axes))
    if method not in PRELOADED:
        return training
    preloading = _memory_of_pass(pass_of(passes, method, model, res, setting))
    card_of(f"{method} with its preloading", [(Entry(number=training), Entry(number=preloading))])
    larger = max(training, preloading, key=lambda number: number.value)
    return replace(larger, record=f"{training.record}, {preloading.record}")


def _memory_of_pass(one: PreloadingCost) -> Number:
    source, card = predicted_source(one.predicted_by), predicted_card(one.gpu)
    return Number(value=one.process_bytes / MIB, source=source, record="preloading.csv", card=card)


def pass_of(passes: list[PreloadingCost], method: str, model: str, res: int, setting: str) -> PreloadingCost:
    """Return the preloading pass in a setting of SETTINGS."""
    cell = paper_cell(method, model, res, **SETTINGS[setting])
    wanted = (method, model, res, cell.precision, cell.attention)
    return next(one for one in passes if (one.method, one.model, one.res, one.precision, one.attention) == wanted)


def fair_table1(evidence: Evidence, passes: list[PreloadingCost]) -> Exhibit:
    """Return the memory of ViT-B at 512 px in every setting."""
    rows: list[Row] = []
    for method in METHODS:
        entries = (Entry(number=evidence.needed_mib(paper_cell(method, **axes))) for axes in SETTINGS.values())
        rows.append((find_method(method).title, *entries))
    for method in PRELOADED:
        entries = (Entry(number=charged_mib(evidence, passes, method, "vit_b", 512, one)) for one in SETTINGS)
        rows.append((f"{find_method(method).title}, preloading charged", *entries))
    return Exhibit(
        name="fair_table1",
        title="Table I's memory, fairly: ViT-B, 512 px, batch 16, one change alone, then one after another, "
        f"{card_of('fair_table1', rows)}",
        headings=("Method", *SETTINGS),
        rows=rows,
        notes=(MEMORY_NOTE, CHARGED_NOTE),
    )


def fair_efficiency(evidence: Evidence, passes: list[PreloadingCost]) -> Exhibit:
    """Return Table I's performance-to-memory efficiency (PME), every method in its best setting.

    The unit of memory is the same for all: full fine-tuning in the paper's setting.
    """
    rows: list[Row] = []
    full_mib = evidence.needed_mib(paper_cell("full")).value
    for row in paper_table(1).query("weights == 'supervised'").to_dict("records"):
        method, auc = row["method"], average_auc(evidence, row)
        entries = [Entry(number=auc, decimals=2)]
        for setting in ("the paper's setting", "all four"):
            memory = charged_mib(evidence, passes, method, "vit_b", 512, setting)
            pme = performance_efficiency(auc.value, memory.value / full_mib)
            entries += [
                Entry(number=memory),
                Entry(number=replace(memory, value=pme, source="computed"), decimals=2),
            ]
        rows.append((find_method(method).title, *entries))
    return Exhibit(
        name="fair_pme",
        title="Table I's PME, fairly: preloading charged; ViT-B, 512 px, supervised weights, "
        f"{card_of('fair_pme', rows)}",
        headings=("Method", "Avg. AUC", "Mem., paper's setting", "PME", "Mem., all four", "PME, all four"),
        rows=rows,
        notes=(
            "PME over the memory of full fine-tuning in the paper's setting, for both columns alike.",
            CHARGED_NOTE,
        ),
    )


def fair_table3(evidence: Evidence, passes: list[PreloadingCost]) -> Exhibit:
    """Return ViT-L where the paper ran out of memory."""
    rows: list[Row] = []
    columns = [(res, setting) for res in LARGE_RES for setting in LARGE_SETTINGS]
    for method in METHODS:
        entries = (Entry(number=evidence.memory_mib(table3_cell(method, r, **SETTINGS[s]))) for r, s in columns)
        rows.append((find_method(method).title, *entries))
    for method in PRELOADED:
        entries = (Entry(number=charged_mib(evidence, passes, method, "vit_l", r, s)) for r, s in columns)
        rows.append((f"{find_method(method).title}, preloading charged", *entries))
    card = card_of("fair_table3", rows)
    return Exhibit(
        name="fair_table3",
        title=f"Table III's memory, fairly: ViT-L, batch 16, {card}; / is out of memory on 48 GB",
        headings=("Method", *(f"{res} px, {setting}" for res, setting in columns)),
        rows=rows,
        notes=(MEMORY_NOTE, CHARGED_NOTE, SIDE_LAYERS_NOTE),
    )


def preloading_table(passes: list[PreloadingCost]) -> Exhibit:
    """Return the table of the preloading passes."""
    rows: list[Row] = []
    for one in passes:
        disk = Number(value=one.disk_bytes_per_image / 1e6, source="counted", record="preloading.csv")
        labels = (find_method(one.method).title, one.model, str(one.res), one.precision, one.attention)
        rows.append((*labels, Entry(number=_memory_of_pass(one)), Entry(number=disk, decimals=2)))
    return Exhibit(
        name="fair_preloading",
        title=f"The preloading pass of FPT and FPT+, one image at a time, {card_of('fair_preloading', rows)}",
        headings=("Method", "Model", "px", "Precision", "Attention", "Mem.", "Disk, MB an image"),
        rows=rows,
        notes=(
            MEMORY_NOTE,
            "Disk: fp32 keys and values of the important tokens, from their shapes; 1 MB is 10^6 bytes.",
        ),
    )
