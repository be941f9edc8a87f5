"""Whatever is typed, a command answers with what was asked for or with a sentence, never with a traceback."""

import contextlib
import io
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bench.__main__ import COMMANDS, main

RES = st.sampled_from(["16", "32", "64", "0", "-16", "50", "1e3", "", "sechzehn", "99999999999999999999"])
COUNT = st.sampled_from(["1", "2", "16", "0", "-1", "2.5", "nan", "viele"])
SECONDS = st.sampled_from(["1", "0.5", "0", "-3", "nan", "inf", "bald"])
AMOUNT = st.sampled_from(["1GiB", "0GiB", "11", "1 MiB", "-1GiB", "1e400GB", "GiB", "∞ GiB"])
ANYTHING = st.text(max_size=8) | st.sampled_from(["--", "-h", "--help", "-", "--method", "--no-such-option"])


def choice(*values):
    return st.sampled_from([*values, "no-such", ""])


OPTIONS = {
    "--method": choice("linear", "lora", "fptplus", "fptplus_preloading", "fpt_live", "Linear"),
    "--model": choice("test_vit", "resnet18", "vit_x", "test_vit2"),
    "--res": RES,
    "--batch-size": COUNT,
    "--num-classes": COUNT,
    "--profile": choice("paper", "fast"),
    "--precision": choice("fp32", "bf16", "fp16", "bf16_weights"),
    "--attention": choice("eager", "sdpa", "flash", "efficient"),
    "--checkpointing": choice("none", "block"),
    "--optimizer": choice("adamw", "adamw_fused", "sgd", "sgd_no_momentum"),
    "--zero-grad": choice("before_forward", "after_forward"),
    "--accumulation-steps": COUNT,
    "--clipping": choice("norm", "none"),
    "--drop-path": st.sampled_from(["0", "0.1", "1", "-0.5", "nan", "viel"]),
    "--averaging": choice("none", "ema"),
    "--lora-rank": COUNT,
    "--lora-targets": choice("query,value", "qkv", "fc1, fc2", "qkv,key", "proj,proj", ","),
    "--alloc-conf": choice("expandable_segments:True", "expandable_segments", "roundup_power2_divisions:[256:1]", ":"),
    "--engine": choice("auto", "emulated", "traced"),
    "--gpu": choice("a6000", "h200", "rtx5091"),
    "--gpu-memory": AMOUNT,
    "--vram": AMOUNT,
    "--device": choice("auto", "cpu", "cuda"),
    "--cpu-budget-s": SECONDS,
    "--timeout-s": SECONDS,
    "--limit-s": SECONDS,
    "--threshold-pct": SECONDS,
    "--epochs": COUNT,
    "--num-images": COUNT,
    "--seed": COUNT,
    "--weights": choice("nowhere.pt", "/", "/dev/null", "README.md"),
    "--redo": choice("nothing", "failed", "oom", "all"),
    "--executor": choice("none"),
    "--jobs": COUNT,
    "--job-minutes": COUNT,
    "--partition": ANYTHING,
    "--out": choice("OUT", "OUT/a/b", "FILE/below", "\0", "OUT/ä ö"),
}
FLAGS = st.sampled_from([["--skip-larger-after-oom"], ["--rules"], ["OUT", "OUT"], ["OUT", "FILE"]])
PAIRS = st.sampled_from(sorted(OPTIONS)).flatmap(lambda name: OPTIONS[name].map(lambda value: [name, value]))


@st.composite
def command_lines(draw):
    command = draw(st.sampled_from([*COMMANDS, None]))
    words = [] if command is None else [command]
    if draw(st.integers(0, 9)):  # a small cell, so that what is valid is also quick
        words += ["--model", "test_vit", "--res", "32", "--method", "linear", "--out", "OUT"]
        words = words if command in (*PREDICTING, None) else words[:1]
    for part in draw(st.lists(PAIRS | FLAGS | ANYTHING.map(lambda text: [text]), max_size=4)):
        words += part
    return words


PREDICTING = ("run", "plan", "advise", "why")


NASTY = [
    ["--res", "99999999999999999999"],
    ["--model", "test_vit", "--res", "32", "--batch-size", "99999999999999999999"],
    ["--gpu-memory", "1" + "0" * 400 + "GiB"],
    ["--model", "test_vit", "--res", "32", "--out", "\0"],
    ["why", "--model", "test_vit", "--res", "32", "--out", "FILE/x"],
    ["doctor", "--out", "\0"],
    ["published", "--out", "\0"],
    ["published", "--out", "FILE/x"],
    ["published", "--out", "OUT"],
    ["compare", "\0", "x"],
    ["--out", "", "--model", "test_vit", "--res", "32"],
]


def with_examples(test):
    for words in NASTY:
        test = example(words=words)(test)
    return test


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@with_examples
@given(words=command_lines())
def test_200_random_command_lines_never_give_a_traceback(quick, words):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "file").touch()
        places = {"OUT": folder / "results", "FILE": folder / "file"}
        arguments = [next((w.replace(k, str(p)) for k, p in places.items() if w.startswith(k)), w) for w in words]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(arguments)
            except SystemExit as stop:
                status = stop.code
        assert status in (0, 1, 2), arguments
        assert "Traceback" not in out.getvalue() + err.getvalue()
        assert status != 2 or err.getvalue().strip(), f"{arguments} was refused without a word"
