"""Each promise of the README: commands exist, the tree is the tree, examples work, the table is what is printed."""

import contextlib
import importlib.util
import io
import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from bench.__main__ import DOOR, main
from fptplus.__main__ import DOOR as TOOL
from fptplus.__main__ import main as run_tool
from methods import METHODS
from methods.cli.study import SETTINGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


COMMAND_LINES = [line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]


def nox_sessions():
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    source = Path(spec.origin).read_text()
    return set(re.findall(r"^def ([a-z]\w*)\(session", source, re.M))


SESSIONS = {"bench": [], "h200": ["campaign"], **{name: [name] for name in DOOR.commands}}
"""What the sessions of the commands put before the options that they are given."""


@pytest.mark.parametrize("line", [line for line in COMMAND_LINES if line.startswith("nox")])
def test_every_nox_command_is_a_session_with_options_that_parse(line):
    words = shlex.split(line)
    session, arguments = words[2], words[4:]
    assert session in nox_sessions()
    if session in SESSIONS and "--help" not in arguments:
        assert DOOR.read([*SESSIONS[session], *arguments])


@pytest.mark.parametrize("line", [line for line in COMMAND_LINES if line.startswith("python -m bench")])
def test_every_module_command_has_options_that_parse(line):
    assert DOOR.read(shlex.split(line)[3:])


@pytest.mark.parametrize("line", [line for line in COMMAND_LINES if re.search(r"(-m|-s) fptplus ", line)])
def test_every_command_of_the_tool_has_options_that_parse(line):
    assert TOOL.read(shlex.split(line.partition(" fptplus ")[2].removeprefix("-- ")))


def test_the_example_runs_from_images_to_pictures(tmp_path, monkeypatch, capsys):
    """Its own commands with the least of everything; the last value given for an option counts."""
    least = {
        "synthesize": "--images-per-class 12",
        "pretrain": "--steps 2 --images 1 --batch-size 2",
        "preload": "--batch-size 4",
        "train": "--epochs 1 --repeats 1",
        "visualize": "--image example/images/test/microaneurysms/microaneurysms_00011.png",
    }
    section = README.split("### A task where resolution matters")[1]
    commands = [shlex.split(line)[3:] for line in section.split("```bash\n")[1].split("```")[0].splitlines()]
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
    table = README.split("five seeds")[1]
    printed = [float(number) for number in re.findall(r"\| ([\d.]+) ± [\d.]+ \|", table)]
    auc = runs.pivot(index="seed", columns="setting", values="auc")
    assert printed == [round(auc[name].mean(), 1) for name in SETTINGS] and set(auc.count()) == {5}
    assert auc["fp32"].min() > auc["side_only"].max() + 20
    change = auc[["bf16", "int8", "fast"]].sub(auc["fp32"], axis="index")
    assert (change.mean().abs() < STUDENT_T_OF_FIVE * change.sem()).all() and change["fast"].mean() > -0.5
    assert (change[["bf16", "int8"]].mean().abs() < 0.5).all()


def test_the_file_tree_is_the_file_tree():
    (tree,) = [block for block in blocks("text") if "noxfile.py" in block]
    folder = ""
    for line in tree.splitlines():
        name = line.split()[0]
        folder = folder if line.startswith(" ") else (name if name.endswith("/") else "")
        path = f"{folder}{name}" if line.startswith(" ") else name
        assert list(ROOT.glob(path)), f"{path} is in the README and not in the tree"
    for package in ("fptplus", "bench"):
        section = tree.split(f"{package}/")[1]
        for path in (ROOT / package).glob("*.py"):
            if path.stem not in ("__init__", "__main__", "conftest") and not path.stem.startswith("bench_"):
                assert path.name in section, f"{path.name} is missing from the README's tree"


def test_the_example_of_a_method_is_short_and_is_predicted(tmp_path, monkeypatch):
    (example,) = [block for block in blocks("python") if "NormTuning" in block]
    assert len(example.splitlines()) < 30
    namespace = {"__name__": "example"}
    exec(compile(example, "README.md", "exec"), namespace)
    monkeypatch.setitem(METHODS, "norm", namespace["NormTuning"]())
    assert main(["--method", "norm", "--model", "test_vit", "--res", "64", "--out", str(tmp_path)]) == 0


def test_the_python_example_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (example,) = [block for block in blocks("python") if "load_official_checkpoint" in block]
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == "32 2\n"


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
NARROW = ("params_pct", "train_step_macs", "predicted_process_bytes", "predicted_peak_allocated_bytes")
LAYOUTS = {
    5: (*NARROW, "predicted_activations_bytes"),
    13: (
        "learnable_params",
        "params_pct",
        "forward_macs",
        "train_step_macs",
        "predicted_process_bytes",
        "predicted_peak_reserved_bytes",
        "predicted_peak_allocated_bytes",
        *(f"predicted_{kind}_bytes" for kind in SPLIT),
    ),
}
"""Columns of the table in 80 characters and in a wide terminal, by their number."""


@pytest.mark.parametrize("method", METHODS)
def test_the_result_table_is_what_the_command_prints(method, printed_rows):
    (row,) = [
        line for line in README.splitlines() if line.strip().startswith(f"{METHODS[method].title} ") and "yes" in line
    ]
    numbers = [float(word.replace(",", "")) for word in row.strip().removeprefix(METHODS[method].title).split()[:-1]]
    for name, number in zip(LAYOUTS[len(numbers)], numbers, strict=True):
        value = printed_rows[method][name]
        if name in ("learnable_params", "params_pct"):
            assert number == pytest.approx(value, abs=0.0051)
        elif name.endswith("_macs"):
            assert number == pytest.approx(value / 1e9, abs=0.51 if number > 1000 else 0.051)
        elif name in ("predicted_process_bytes", "predicted_peak_reserved_bytes"):
            assert number == pytest.approx(value / 2**20, rel=0.05, abs=24), "but for a segment of another PyTorch"
        else:
            assert number == pytest.approx(value / 2**20, abs=24, rel=0.01), "but for another PyTorch's workspaces"
