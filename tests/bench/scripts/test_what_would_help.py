"""What would help is tried: a change made from outside takes the bytes of the same change made by hand."""

import json
import sys
from pathlib import Path

import pytest

from bench.cards.gpus import GPUS
from bench.commands import emulate
from bench.emulate.build import why_not
from bench.scripts import what_would_help
from bench.scripts.script_run import ScriptOptions, run_script
from bench.scripts.what_would_help import ScriptChange
from fptplus import InvalidInput

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

HERE = Path(__file__).parent
BY_HAND = [
    *(("plain", change) for change in ("checkpointing", "fused_attention", "autocast", "half", "fused_optimizer")),
    *(("timm", change) for change in ("checkpointing", "fused_attention", "autocast")),
    *(("huggingface", change) for change in ("checkpointing", "fused_attention", "autocast")),
]
NOTHING_TO_CHANGE = [("linear", "checkpointing"), ("linear", "fused_attention")]


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    """Peaks and words of each case: (allocated bytes, reserved bytes, what the change says)."""
    folder = tmp_path_factory.mktemp("changes")
    cases = [(model, "none", "nobody") for model in ("plain", "timm", "huggingface")]
    cases += [(*case, whom) for case in BY_HAND for whom in ("hand", "outside")]
    cases += [(*case, "outside") for case in NOTHING_TO_CHANGE]
    options = ScriptOptions(record_steps=0, output=folder / "output.txt")
    words = (sys.executable, str(HERE / "changed_script.py"), *map(",".join, cases))
    run = run_script(words, GPUS["a6000"], folder, options)
    output = options.output.read_text()
    assert run.exit_status == 0, output
    lines = [line.split("|") for line in output.splitlines() if line.partition("|")[0].isdecimal()]
    return {case: (int(line[0]), int(line[1]), line[2:]) for case, line in zip(cases, lines, strict=True)}


@pytest.mark.parametrize(("model", "change"), BY_HAND)
def test_a_change_takes_the_bytes_of_the_same_change_by_hand(model, change, peaks):
    outside, hand = peaks[model, change, "outside"], peaks[model, change, "hand"]
    assert outside[:2] == hand[:2]
    assert outside[:2] != peaks[model, "none", "nobody"][:2], "it has changed something"
    assert not any(words.startswith("not") for words in outside[2])


@pytest.mark.parametrize(("model", "change"), NOTHING_TO_CHANGE)
def test_what_cannot_be_changed_is_said_with_the_reason(model, change, peaks):
    (words,) = peaks[model, change, "outside"][2]
    assert words.startswith(("not: no repeated block was found", "not: no attention with a switch was found"))


def test_the_command_shows_what_each_change_saves(tmp_path, monkeypatch, capfd):
    changes = [
        ScriptChange(title="gradient checkpointing", names=("checkpointing",)),
        ScriptChange(title="bf16 autocast", names=("autocast",)),
        ScriptChange(title="fused attention", names=("fused_attention",)),
    ]
    monkeypatch.setattr(what_would_help, "_changes", lambda command, unchanged: iter(changes))
    command = (sys.executable, str(HERE / "training_script.py"), "--batch-size", "16384", "--steps", "2")
    config = emulate.EmulateConfig(
        gpu=("rtx4060",), gpu_memory="700MiB", what_would_help=True, out=str(tmp_path / "out"), command=command
    )
    assert emulate.main(config) == 1, "it does not fit, and still all is tried"
    (report,) = tmp_path.glob("out/*/rtx4060/report.json")
    unchanged, blocks, autocast, attention, together = json.loads(report.read_text())["what_would_help"]
    assert unchanged["fits"] == "no" and blocks["saved_allocated_bytes"] > 64 * 2**20
    assert blocks["how"] == "torch.utils.checkpoint around each of 4 Sequential"
    assert autocast["how"].startswith("torch.autocast") and autocast["saved_reserved_bytes"] > 0
    assert attention["reason"].startswith("no attention with a switch") and "fits" not in attention
    assert together["saved_reserved_bytes"] > blocks["saved_reserved_bytes"]
    said = capfd.readouterr().err.partition("\nNVIDIA GeForce")[2].splitlines()
    assert all(len(line) <= 80 for line in said[1:-1])
    assert any(line.startswith("  fused attention cannot be tried: no attention") for line in said)
    page = report.with_name("timeline.html").read_text()
    assert "What would help" in page and "cannot be tried: no attention" in page


def test_a_change_that_the_script_does_not_survive_is_said(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import os, sys\nif os.environ.get('EMULATED_CHANGES'): sys.exit('broken by it')\n")
    options = ScriptOptions(stop_after_steps=1)
    change = ScriptChange(title="autocast", names=("autocast",))
    trial = what_would_help._try((sys.executable, str(script)), GPUS["t4"], tmp_path / "trial", change, options)
    assert trial.run is None and trial.reason == "with it, the script ends with status 1: broken by it"


def test_two_searches_at_once_are_refused():
    with pytest.raises(InvalidInput, match="what-would-help and find-batch-size must be asked one at a time"):
        emulate.EmulateConfig(command=("python",), what_would_help=True, find_batch_size="b").check()
