"""The promises of the README and of docs/: commands parse, links resolve, the file tree is true, examples work."""

import ast
import contextlib
import io
import json
import re
import shlex
from collections import Counter
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pandas as pd
import pytest

from bench.__main__ import DOOR, main
from bench.paper.check import KINDS as KINDS_OF_NUMBERS
from bench.paper.check import check, counts_by_kind
from bench.paper.evidence import Evidence
from bench.records.record import COLUMNS
from fptplus.__main__ import DOOR as TOOL
from fptplus.__main__ import main as run_tool
from methods import METHODS
from methods.cli.study import SETTINGS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "results" / "README.md", ROOT / "tests" / "golden" / "README.md"]
PACKAGES = ("fptplus", "methods", "bench")


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


README = text_of("README.md")


def blocks(language, *pages):
    return [b for page in pages or PAGES for b in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)]


def prose(page):
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.S)


def in_backticks(page):
    return re.findall(r"`([^`\n]+)`", prose(page))


def table_rows(text):
    """Cells of all rows of Markdown tables, without markup."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def row_named(rows, name):
    (row,) = [row for row in rows if row[0] == name]
    return row


def numbers(cells):
    return [float(cell.replace(",", "")) for cell in cells]


# Commands

COMMAND_LINES = list(dict.fromkeys(line.strip() for block in blocks("bash") for line in block.splitlines()))
NOXFILE = ast.parse(text_of("noxfile.py"))
NOX_SESSIONS = {
    node.name for node in NOXFILE.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
}
COMMANDS_BEFORE_OPTIONS = {"bench": [], "h200": ["campaign"], **{name: [name] for name in DOOR.commands}}
"""What the sessions of the commands put before the options that they are given."""

KINDS = {
    "nox": r"nox -s \w+( -- .+)?",
    "bench": r"python -m bench( .+)?",
    "fptplus": r"(python|torchrun --nproc-per-node 2) -m fptplus .+",
    "pytest": r"pytest .+",
    "pip": r"python -m pip install (nox|-e \S+)",
}


def lines_of(kind):
    return [line for line in COMMAND_LINES if re.fullmatch(KINDS[kind], line)]


def test_every_command_is_of_a_kind_that_is_tested():
    assert not [line for line in COMMAND_LINES if not any(re.fullmatch(kind, line) for kind in KINDS.values())]
    assert all(map(lines_of, KINDS))


@pytest.mark.parametrize("line", lines_of("nox"))
def test_every_nox_command_is_a_session_with_options_that_parse(line):
    words = shlex.split(line)
    session, arguments = words[2], words[4:]
    assert session in NOX_SESSIONS
    if session in COMMANDS_BEFORE_OPTIONS and "--help" not in arguments:
        assert DOOR.read([*COMMANDS_BEFORE_OPTIONS[session], *arguments])
    elif session == "fptplus":
        assert TOOL.read(arguments)
    elif session == "tests":
        assert all((ROOT / path).exists() for path in arguments)


@pytest.mark.parametrize("line", [line for line in lines_of("bench") if "--help" not in line])
def test_every_command_of_the_benchmark_has_options_that_parse(line):
    assert DOOR.read(shlex.split(line)[3:])


@pytest.mark.parametrize("line", [line for line in lines_of("fptplus") if "--help" not in line])
def test_every_command_of_the_tool_has_options_that_parse(line):
    assert TOOL.read(shlex.split(line.partition(" fptplus ")[2]))


PYTEST_OPTIONS = {"--benchmark-only", "--benchmark-json", "--slurm", "-s"}


@pytest.mark.parametrize("line", lines_of("pytest"))
def test_every_pytest_command_has_a_path_and_options_that_exist(line):
    words = shlex.split(line)[1:]
    ours = re.findall(r'addoption\("(--[\w-]+)"', text_of("bench/conftest.py"))
    assert (ROOT / words[0]).exists()
    assert {word for word in words if word.startswith("-")} <= {*PYTEST_OPTIONS, *ours}


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_commands_in_the_text_exist(page):
    for code in in_backticks(page):
        if found := re.match(r"nox -s (\w+)", code):
            assert found[1] in NOX_SESSIONS, code
        if found := re.match(r"python -m bench (\w+)", code):
            assert found[1] in DOOR.commands or code.startswith("python -m bench cards"), code
        if found := re.match(r"python -m fptplus (\w+)", code):
            assert found[1] in TOOL.commands, code


def options_of(door):
    for name in door.commands:
        main_of = import_module(f"{door.package}.{door.modules.get(name, name)}").main
        yield from (f"--{field.name.replace('_', '-')}" for field in fields(get_type_hints(main_of)["config"]))


OPTIONS = {*options_of(DOOR), *options_of(TOOL), *PYTEST_OPTIONS, "--help"}


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_options_in_the_text_exist(page):
    for code in in_backticks(page):
        for option in re.findall(r"(?<!\S)--[a-z][\w-]*", code):
            assert option in OPTIONS or code.startswith("python -m bench cards"), code


def test_every_command_and_session_is_described():
    headings = re.findall(r"^### (\w+)", text_of("docs/commands.md"), re.M)
    assert Counter(headings) == Counter([*DOOR.commands, *TOOL.commands])
    described = set(re.findall(r"`?nox -s (\w+)|\| `(\w+)` \|", text_of("docs/commands.md")))
    assert {*COMMANDS_BEFORE_OPTIONS} | {one for pair in described for one in pair} >= NOX_SESSIONS


# The example of a task where resolution matters

EXAMPLE = next(ast.literal_eval(node.value) for node in NOXFILE.body if ast.unparse(node).startswith("EXAMPLE = "))


def test_the_session_runs_the_example_that_is_shown():
    (shown,) = [block for block in blocks("bash", DOCS / "training.md") if "synthesize" in block]
    assert shown.splitlines() == [f"python -m fptplus {command}" for command in EXAMPLE]


def test_the_example_runs_from_images_to_pictures(tmp_path, monkeypatch, capsys):
    """Its own commands with the least of everything; the last value given for an option counts."""
    least = {
        "synthesize": "--images-per-class 12",
        "pretrain": "--steps 2 --images 1 --batch-size 2",
        "preload": "--batch-size 4",
        "train": "--epochs 1 --repeats 1",
        "visualize": "--image example/images/test/microaneurysms/microaneurysms_00011.png",
    }
    commands = [shlex.split(command) for command in EXAMPLE]
    assert " ".join(words[0] for words in commands) == "synthesize pretrain preload train train evaluate visualize"
    monkeypatch.chdir(tmp_path)
    for words in commands:
        if words[0] == "visualize":
            del words[1:3]  # an image is added to those given
        assert run_tool([*words, *shlex.split(least.get(words[0], ""))]) == 0
    assert "AUC" in capsys.readouterr().out
    assert {path.name for path in Path("example/figures").glob("*.png")} == {
        "attention_on_prompts.png",
        "tokens_microaneurysms_00011_layer9_head0.png",
    }


STUDENT_T_OF_FIVE = 2.776
"""Standard errors that the mean of five differences stays within by chance, 95 times in 100."""


def test_the_results_of_the_study_are_those_on_record():
    runs = pd.read_csv(ROOT / "results" / "training" / "fundus.csv")
    table = text_of("docs/training.md").split("five seeds")[1]
    printed = [float(number) for number in re.findall(r"\| ([\d.]+) ± [\d.]+ \|", table)]
    auc = runs.pivot(index="seed", columns="setting", values="auc")
    assert printed == [round(auc[name].mean(), 1) for name in SETTINGS] and set(auc.count()) == {5}
    assert auc["fp32"].min() > auc["side_only"].max() + 20
    change = auc[["bf16", "int8", "fast"]].sub(auc["fp32"], axis="index")
    assert (change.mean().abs() < STUDENT_T_OF_FIVE * change.sem()).all() and change["fast"].mean() > -0.5
    assert (change[["bf16", "int8"]].mean().abs() < 0.5).all()


# Pages, links, files


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 6000


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_can_be_reached_from_the_readme_and_from_the_index():
    for index in (ROOT / "README.md", DOCS / "README.md"):
        targets = re.findall(r"\]\(([^)#\s]+)", prose(index))
        linked = {(index.parent / target).resolve() for target in targets if not target.startswith("https://")}
        assert {page for page in PAGES if page.name != "README.md"} <= linked


WRITTEN_BY_THE_READER = {"methods/norm.py", "bench/commands/cards.py"}
MADE_BY_A_RUN = ("results/why", "results/before", "results/after", "results/cluster", "results/results.csv")


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_every_file_that_is_named_exists(page):
    for code in in_backticks(page):
        if re.fullmatch(rf"({'|'.join(PACKAGES)}|tests|results|docs)/[\w./-]*", code):
            is_there = (ROOT / code).exists() or code in WRITTEN_BY_THE_READER
            assert is_there or code.startswith(MADE_BY_A_RUN), code


SPELLED_OUT = {
    "LPM": "large pre-trained model",
    "PPE": "performance-parameter-efficiency",
    "PME": "performance-memory-efficiency",
}


@pytest.mark.parametrize("short", SPELLED_OUT)
@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_abbreviations_are_spelled_out_where_a_page_first_uses_them(page, short):
    text = prose(page)
    if first := re.search(rf"\b{short}\b", text):
        near = " ".join(text[: first.end() + 120].lower().split())
        assert SPELLED_OUT[short] in near


# Architecture


def tree_paths():
    (tree,) = [block for block in blocks("text", DOCS / "architecture.md") if "noxfile.py" in block]
    folders = []
    for line in tree.splitlines():
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        assert len(line.split()) > 1, f"{name} has no comment"
        folders[depth:] = [name]
        yield "".join(folders)


def test_the_file_tree_is_the_file_tree():
    named = list(tree_paths())
    assert len(named) == len(set(named))
    assert not [path for path in named if not (ROOT / path).exists()]
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.stem != "__init__"]
    folders = {path.parent for path in modules}
    expected = {path.relative_to(ROOT).as_posix() for path in modules}
    expected |= {f"{path.relative_to(ROOT).as_posix()}/" for path in folders}
    assert not expected - set(named), "missing from the tree"


@pytest.mark.parametrize("heading", ["A cell, from the command line to its record", "A feature row, from the store"])
def test_a_walk_has_at_most_ten_stops_at_files_that_exist(heading):
    walk = text_of("docs/architecture.md").split(f"## {heading}")[1].split("\n## ")[0]
    stops = re.findall(r"^\d+\. (.*?)(?=^\d+\. |\Z)", walk, re.M | re.S)
    assert 5 <= len(stops) <= 10
    for stop in stops:
        files = re.findall(r"`([\w/]+\.py)`", stop)
        assert files and all((ROOT / file).exists() for file in files), stop


def test_every_dependency_has_its_reason():
    declared = re.findall(r'^    "([\w-]+)', text_of("pyproject.toml").split("dependencies = [")[1].split("]")[0], re.M)
    table = text_of("docs/architecture.md").split("## Dependencies")[1]
    reasons = {name for row in table_rows(table) for name in re.findall(r"[\w-]+", row[0])}
    assert set(declared) <= reasons


# Python


PYTHON_BLOCKS = [(page, block) for page in PAGES for block in blocks("python", page)]


@pytest.mark.parametrize(("page", "block"), PYTHON_BLOCKS, ids=lambda part: getattr(part, "name", ""))
def test_every_python_block_imports_what_there_is(page, block):
    imports = [node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), page.name, "exec"), {})


def python_block(part):
    (block,) = [block for _, block in PYTHON_BLOCKS if part in block]
    return block


def run_block(block):
    namespace = {"__name__": "example"}
    exec(compile(block, "docs", "exec"), namespace)
    return namespace


def test_the_example_of_a_method_is_short_and_is_predicted(tmp_path, monkeypatch):
    example = python_block("NormTuning")
    assert len(example.splitlines()) < 30
    monkeypatch.setitem(METHODS, "norm", run_block(example)["NormTuning"]())
    assert main(["--method", "norm", "--model", "test_vit", "--res", "64", "--out", str(tmp_path)]) == 0


def test_the_python_example_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    run_block(python_block("load_official_checkpoint"))
    assert capsys.readouterr().out == "32 2\n"


def test_the_example_of_an_emulated_card_finds_it(capfd):
    run_block(python_block("emulate.launch"))
    assert capfd.readouterr().out == "NVIDIA RTX A6000\n"


def test_the_example_of_a_command_runs(capsys):
    example = run_block(python_block("CardsConfig"))
    assert example["main"](example["CardsConfig"](at_least_gib=40)) == 0
    out = capsys.readouterr().out
    assert "NVIDIA RTX A6000" in out and "T4" not in out
    assert set(run_block(python_block("COMMANDS = {"))["COMMANDS"]) == {"cards"}


def test_the_example_of_a_gpu_is_a_line_of_the_catalogue():
    (example,) = [block for block in blocks("text", DOCS / "extending.md") if "compute_capability" in block]
    assert set(example.splitlines()) <= set(text_of("bench/cards/gpus.csv").splitlines())


# Numbers


@pytest.fixture(scope="module")
def printed_rows(tmp_path_factory):
    """What the command prints for programs, by method."""
    out, printed = tmp_path_factory.mktemp("results"), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        patch.setattr("bench.cells.grid.measured_on", lambda device: "nothing")  # also where there is a GPU
        assert main(["--gpu", "a6000", "--format", "json", "--out", str(out)]) == 0
    return {row["method"]: row for row in json.loads(printed.getvalue())}


SPLIT = ("weights", "gradients", "optimizer", "activations", "temporary", "inputs")
SHOWN = (
    "learnable_params",
    "params_pct",
    "forward_macs",
    "train_step_macs",
    "predicted_process_bytes",
    "predicted_peak_reserved_bytes",
    "predicted_peak_allocated_bytes",
    *(f"predicted_{kind}_bytes" for kind in SPLIT),
)


@pytest.mark.parametrize("method", METHODS)
def test_the_result_table_is_what_the_command_prints(method, printed_rows):
    table = text_of("docs/numbers.md").split("column by column")[1].split("##")[0]
    _, *cells, fits = row_named(table_rows(table), METHODS[method].title)
    printed = printed_rows[method]
    assert fits == "yes" and printed["predicted_fits"]
    for name, number in zip(SHOWN, numbers(cells), strict=True):
        value = printed[name]
        if name in ("learnable_params", "params_pct"):
            assert number == pytest.approx(value, abs=0.0051)
        elif name.endswith("_macs"):
            assert number == pytest.approx(value / 1e9, abs=0.051)
        elif name in ("predicted_process_bytes", "predicted_peak_reserved_bytes"):
            assert number == pytest.approx(value / 2**20, rel=0.05, abs=24), "but for a segment of another PyTorch"
        else:
            assert number == pytest.approx(value / 2**20, abs=24, rel=0.01), "but for another PyTorch's workspaces"


def test_the_table_of_the_readme_is_on_record_and_fits_80_columns():
    records = pd.read_csv(ROOT / "results" / "paper" / "results.csv").query("model == 'vit_l' and res == 640")
    records = records.query("precision == 'fp32' and attention == 'eager'").query("gpu == 'a6000'")
    records = records.query("checkpointing == 'none' and optimizer == 'adamw'").set_index("method")
    assert set(records.predicted_by) == {"emulated"}
    full = records.loc["full"]
    for name, method in METHODS.items():
        row, record = row_named(table_rows(README), method.title), records.loc[name]
        of_full = record.predicted_process_bytes / full.predicted_process_bytes
        shown = [f"{record.params_pct:.2f}", f"{record.predicted_process_bytes / 2**20:,.0f}", f"{of_full:.3f}"]
        assert row[1:] == [*shown, "yes" if record.predicted_fits else "no"]
        assert len(f"| {' | '.join(row)} |") <= 80


@pytest.mark.parametrize("page", ["README.md", "docs/paper.md"])
def test_what_the_paper_check_says_is_counted_by_kind(page):
    counts = counts_by_kind(check(Evidence(ROOT / "results")))
    rows = [row for row in table_rows(text_of(page)) if row[-1].isdigit() and row[0] in set(KINDS_OF_NUMBERS.values())]
    told = {kind: list(map(int, numbers)) for kind, _, *numbers in rows}
    assert told == {kind: [one[verdict] for verdict in ("pass", "warn", "differs")] for kind, one in counts.items()}


def test_what_the_readme_says_of_published_measurements_is_on_record():
    rows = pd.read_csv(ROOT / "results" / "published" / "memory.csv")
    held = rows[rows.bar_pct.notna()]
    assert f"all {len(held)} agree" in README and set(held.verdict) == {"within"}
    for counter, bar_pct in (("max_memory_allocated", 0.2), ("max_memory_reserved", 1)):
        own = held[held.counter == counter]
        assert set(own.bar_pct) == {bar_pct}
        assert f"{len(own)} of `{counter}` within {bar_pct} %" in README


def test_the_printed_memory_is_one_constant_more_than_the_papers_software_reserves():
    rows = pd.read_csv(ROOT / "results" / "paper" / "paper_stack.csv")
    off = (rows[["printed_less_training_mib", "printed_less_reserved_mib"]] - 348).abs()
    assert f"all {len(rows)} figures" in README and (off.min(axis="columns") <= 2).all()
    before = (off.printed_less_training_mib <= 2).sum()
    assert f"in {before} cells before the first evaluation, in {len(rows) - before} after one" in text_of(
        "docs/paper.md"
    )


def test_every_column_has_its_unit_and_meaning():
    table = text_of("docs/numbers.md").split("## Columns of")[1]
    named = re.findall(r"`(\w+)`", " ".join(row[0] for row in table_rows(table)))
    assert sorted(named) == sorted(COLUMNS)
