"""The command line, as a user meets it."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import save_file

from bench.__main__ import main
from bench.cells.config import CellConfig
from bench.emulate.build import CannotEmulate
from bench.predict import predictor
from bench.records.record import new_record
from bench.records.results_store import ResultsStore
from methods import METHODS, create_backbone

ROOT = Path(__file__).parents[3]
SMALL = ["--model", "test_vit", "--res", "64"]

needs_emulation = pytest.mark.skipif(predictor.why_traced("auto") is not None, reason="nothing can be emulated here")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def bench(out, capsys):
    """Run the command; gives its exit status, output and errors."""

    def run(*arguments):
        try:
            status = main([*arguments, "--out", str(out)])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def unwrapped(printed):
    """Sentences and titles in one line, wherever they were broken."""
    return " ".join(printed.split())


def test_one_command_predicts_all_ten_methods(bench, out):
    status, printed, _ = bench(*SMALL)
    assert status == 0
    assert all(method.title in printed for method in METHODS.values())
    table = pd.read_csv(out / "results.csv")
    assert sorted(table.method) == sorted(METHODS)
    assert len(list((out / "records").glob("*.json"))) == 10
    assert set(table.status) == {"ok"}
    kinds = ("weights", "gradients", "optimizer", "activations", "temporary", "inputs")
    assert (sum(table[f"predicted_{kind}_bytes"] for kind in kinds) == table.predicted_peak_allocated_bytes).all()


@needs_emulation
def test_records_say_that_memory_is_emulated_and_how_it_ends_where_it_does_not_fit(bench, out):
    status, printed, errors = bench(*SMALL, "--method", "full", "--batch-size", "128", "--gpu-memory", "420MiB")
    row = pd.read_csv(out / "results.csv").iloc[0]
    assert (status, errors) == (0, "") and row.status == "ok"
    assert row.predicted_by == "emulated" and row.kernel_launches > 0
    assert row.vram_bytes == 420 * 2**20 and row.predicted_fits == False  # noqa: E712, the CSV's bool is numpy's
    assert row.status_detail.startswith("step 1, forward: CUDA out of memory. Tried to allocate ")
    assert "MiB emulated on a6000" in unwrapped(printed)
    assert f"Full fine-tuning: {row.status_detail}" in unwrapped(printed)


def test_an_engine_that_is_asked_for_is_the_one_and_is_named(bench, out):
    status, printed, errors = bench(*SMALL, "--method", "linear", "--engine", "traced")
    row = pd.read_csv(out / "results.csv").iloc[0]
    assert status == 0 and errors == "note: memory is traced, as asked (--engine traced).\n"
    assert row.predicted_by == "traced" and pd.isna(row.kernel_launches)
    assert "MiB traced on a6000" in unwrapped(printed) and row.status_detail.startswith("traced, ")


@pytest.fixture
def nothing_to_emulate(monkeypatch):
    """A machine without a compiler."""

    def refuse():
        raise CannotEmulate("no C++ compiler was found; install g++.")

    monkeypatch.setattr(predictor, "device_libraries", refuse)
    predictor.why_traced.cache_clear()
    yield
    predictor.why_traced.cache_clear()


def test_where_nothing_can_be_emulated_memory_is_traced_with_the_reason(bench, out, nothing_to_emulate):
    status, _, errors = bench(*SMALL, "--method", "linear")
    assert status == 0
    assert errors == "note: memory is traced, not emulated: no C++ compiler was found; install g++.\n"
    assert pd.read_csv(out / "results.csv").predicted_by.tolist() == ["traced"]


@pytest.mark.parametrize("command", ["run", "plan", "why"])
def test_where_nothing_can_be_emulated_that_engine_is_refused_and_nothing_is_written(
    capsys, out, nothing_to_emulate, command
):
    assert main([command, *SMALL, "--engine", "emulated", "--out", str(out)]) == 2
    assert capsys.readouterr().err == "error: no C++ compiler was found; install g++.\n"
    assert not out.exists()


def test_options_may_be_repeated(bench, out):
    bench("--method", "full", "--method", "lora", "--model", "test_vit", "--res", "64", "--res", "96")
    assert len(pd.read_csv(out / "results.csv")) == 4


def test_runs_into_one_folder_add_up(bench, out):
    bench(*SMALL, "--method", "full")
    bench(*SMALL, "--method", "lora")
    assert sorted(pd.read_csv(out / "results.csv").method) == ["full", "lora"]


def test_the_verdict_on_a_gpu_s_memory(bench):
    _, printed, _ = bench(*SMALL, "--method", "full", "--gpu-memory", "1MiB")
    assert "no" in printed.split("Full fine-tuning")[1]
    _, printed, _ = bench(*SMALL, "--method", "full", "--gpu-memory", "48GiB")
    assert "yes" in printed.split("Full fine-tuning")[1]


def test_steps_are_timed_on_a_cpu_that_is_asked_for(bench, out):
    arguments = ("--device", "cpu", "--batch-size", "2", "--cpu-budget-s", "1")
    status, printed, _ = bench(*SMALL, "--method", "fptplus", *arguments)
    row, preloading = (row for _, row in pd.read_csv(out / "results.csv").iterrows())
    assert (row.method, preloading.method) == ("fptplus", "fptplus_preloading")
    assert preloading.disk_bytes_per_img > 0 and preloading.throughput_img_s > 0
    assert "2 cells: 0 measured before, 2 to run" in unwrapped(printed) and "measured on" in unwrapped(printed)
    assert row.derived_num_images == 1049
    assert row.derived_training_time_s == pytest.approx(20 * (1049 // 2) * row.step_time_s)
    assert row.wall_s > 0 and pd.isna(row.measured_peak_allocated_bytes)
    assert status == 0
    assert row.step_time_p10_s <= row.step_time_s <= row.step_time_p90_s
    assert row.throughput_img_s == pytest.approx(2 / row.step_time_s)
    assert isinstance(row.device, str)


def test_kill_9_loses_nothing_that_was_measured_and_leaves_no_process(bench, out):
    arguments = [*SMALL, "--method", "linear", "--method", "lora", "--device", "cpu"]
    arguments += ["--cpu-budget-s", "1", "--batch-size", "2"]
    store = ResultsStore(out)
    cell = CellConfig(method="linear", model="test_vit", res=64, batch_size=2, device="cpu")
    store.write(measured := replace(new_record(cell), device="a CPU", throughput_img_s=9.0))
    command = [sys.executable, "-m", "bench", *arguments, "--out", str(out)]
    sweep = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (children := psutil.Process(sweep.pid).children()) and sweep.poll() is None:
        time.sleep(0.05)
    sweep.kill()
    sweep.wait()
    assert children and not psutil.wait_procs(children, timeout=30)[1]
    assert store.records() == [measured]
    assert bench(*arguments)[0] == 0
    assert store.find(cell.cell_id) == measured
    assert pd.read_csv(out / "results.csv").throughput_img_s.notna().tolist() == [True, True]


def test_what_was_measured_is_kept_when_the_command_runs_again(bench, out):
    arguments = (*SMALL, "--method", "linear", "--device", "cpu", "--cpu-budget-s", "1")
    bench(*arguments)
    first = (out / "results.csv").read_text()
    assert bench(*arguments)[0] == 0
    assert (out / "results.csv").read_text() == first


def test_a_cell_over_the_cpu_budget_is_not_timed_and_says_so(bench, out):
    status, printed, _ = bench(
        "--model", "vit_l", "--res", "384", "--method", "full", "--device", "cpu", "--cpu-budget-s", "0.001"
    )
    row = pd.read_csv(out / "results.csv").iloc[0]
    assert status == 0
    assert pd.isna(row.throughput_img_s)
    assert "not timed" in row.status_detail and "not timed" in printed
    assert pd.isna(row.device)


def test_a_cell_that_was_not_timed_is_timed_once_the_budget_allows_it(bench, out):
    arguments = (*SMALL, "--method", "linear", "--device", "cpu", "--cpu-budget-s")
    bench(*arguments, "0.0001")
    assert pd.isna(pd.read_csv(out / "results.csv").throughput_img_s[0])
    bench(*arguments, "1")
    assert pd.read_csv(out / "results.csv").throughput_img_s[0] > 0


def test_a_cell_that_breaks_is_recorded_and_the_others_run(bench, out, monkeypatch):
    class Broken:
        title, source = "Broken", "a test"

        def build(self, vit, res):
            raise ZeroDivisionError("on purpose")

    monkeypatch.setitem(METHODS, "linear", Broken())
    with pytest.warns(UserWarning, match="on purpose"):
        status, _, _ = bench(*SMALL, "--method", "full", "--method", "linear", "--method", "lora", "--engine", "traced")
    table = pd.read_csv(out / "results.csv").set_index("method")
    assert status == 1
    assert dict(table.status) == {"full": "ok", "linear": "failed", "lora": "ok"}
    log = f"records/logs/{table.cell_id['linear']}.txt"
    assert table.status_detail["linear"] == f"ZeroDivisionError: on purpose; see {log}"
    assert "in build" in (out / log).read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "prompt"], "method must be one of full, linear, vpt"),
        (["--model", "vit_x"], "model must be one of vit_s, vit_b, vit_l"),
        (["--model", "resnet18"], "model must be a plain timm VisionTransformer"),
        (["--res", "500"], "res must be a positive multiple of vit_b's patch size 16, got 500; try 496 or 512"),
        (["--res", "0"], "res must be at least 1, got 0"),
        (["--batch-size", "-1"], "batch-size must be at least 1, got -1"),
        (["--num-classes", "0"], "num-classes must be at least 1, got 0"),
        (["--attention", "flash"], "attention 'flash' must be used with precision bf16 or fp16"),
        (["--precision", "fp16", "--device", "cpu"], "precision fp16 must be measured on a CUDA device"),
        (["--gpu-memory", "48"], "gpu-memory must be an amount above 0 with its unit"),
        (["--cpu-budget-s", "0"], "cpu-budget-s must be above 0"),
        (["--accumulation-steps", "3"], "accumulation-steps must divide the batch of 16 images, got 3"),
        (["--drop-path", "1"], "drop-path must be at least 0 and below 1, got 1"),
        (["--method", "full", "--lora-rank", "8"], "lora-rank and lora-targets must be given with method lora"),
        (["--lora-targets", "q,v"], "lora-targets must be some of query, key, value, qkv, proj, fc1, fc2"),
        (["--alloc-conf", "expandable_segments"], "alloc-conf must be settings such as expandable_segments:True"),
        (
            ["--weights", "nowhere.pt"],
            "a model at Hugging Face (organisation/name), got 'nowhere.pt'",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(bench, out, arguments, sentence):
    status, printed, errors = bench(*arguments)
    assert status == 2
    assert errors.startswith("error: ") and sentence in errors
    assert errors.count("\n") == 1
    assert printed == ""
    assert not out.exists()


def test_a_step_is_run_and_recorded_with_the_options_asked_for(bench, out):
    options = {"zero_grad": "after_forward", "accumulation_steps": 2, "clipping": "none", "averaging": "ema"}
    options |= {"drop_path": 0.1, "lora_rank": 8, "lora_targets": "qkv,proj", "precision": "bf16_weights"}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    arguments = ["--method", "lora", "--batch-size", "2", "--device", "cpu", "--cpu-budget-s", "1", *words]
    status, printed, _ = bench(*SMALL, *arguments)
    row = pd.read_csv(out / "results.csv").iloc[0]
    assert status == 0 and row.status == "ok" and row.throughput_img_s > 0
    assert {name: row[name] for name in options} == options
    assert "averaging ema" in unwrapped(printed) and "lora_rank 8" in printed and "qkv,proj" in printed


def test_a_method_that_an_option_does_not_suit_is_unsupported_and_the_others_run(bench, out):
    status, _, _ = bench(*SMALL, "--method", "full", "--method", "fptplus", "--drop-path", "0.1")
    table = pd.read_csv(out / "results.csv").set_index("method")
    assert status == 0 and dict(table.status) == {"full": "ok", "fptplus": "unsupported"}
    assert "drop-path must be 0 with method fptplus" in table.status_detail["fptplus"]


def test_allocator_settings_of_the_environment_are_warned_of_in_one_line(bench, monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    _, _, errors = bench(*SMALL, "--method", "linear")
    (line,) = errors.splitlines()
    assert line.startswith("warning: PYTORCH_CUDA_ALLOC_CONF is set to 'max_split_size_mb:64'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_cuda_device_that_is_not_there_is_refused(bench, out):
    status, _, errors = bench("--device", "cuda")
    assert status == 2
    assert "device must be auto or cpu on a machine without a CUDA device, got cuda" in errors
    assert not out.exists()


def test_a_truncated_or_wrong_checkpoint_is_refused_before_anything_is_written(bench, out, tmp_path):
    weights = tmp_path / "vit.safetensors"
    save_file(create_backbone("test_vit", 64, 5).state_dict(), weights)
    assert bench(*SMALL, "--method", "linear", "--weights", str(weights))[0] == 0
    fresh = out.with_name("fresh")
    for model, sentence in (("vit_s", "the checkpoint"), ("test_vit", "truncated or damaged")):
        if model == "test_vit":
            weights.write_bytes(weights.read_bytes()[:-100])
        status, _, errors = bench("--model", model, "--res", "64", "--weights", str(weights), "--out", str(fresh))
        assert status == 2 and sentence in errors
        assert not fresh.exists()


def test_an_unwritable_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*SMALL, "--method", "linear", "--out", str(tmp_path / "file" / "results")]) == 2
    assert "out must be a folder that can be written" in capsys.readouterr().err


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for option in (
        "--method",
        "--model",
        "--res",
        "--batch-size",
        "--profile",
        "--precision",
        "--attention",
        "--checkpointing",
        "--optimizer",
        "--zero-grad",
        "--accumulation-steps",
        "--clipping",
        "--drop-path",
        "--averaging",
        "--lora-rank",
        "--lora-targets",
        "--alloc-conf",
        "--num-classes",
        "--device",
        "--gpu-memory",
        "--engine",
        "--weights",
        "--out",
        "--format",
    ):
        assert option in printed


def test_runs_as_a_module_from_a_shell(tmp_path):
    command = [sys.executable, "-m", "bench", *SMALL, "--method", "fptplus", "--out", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert "FPT+" in result.stdout
    assert "Warning" not in result.stderr
