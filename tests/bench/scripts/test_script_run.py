"""An unchanged script runs on an emulated card, and its memory is reported."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from training_script import WIDTH, allocate, build, fail, one_step

from bench.cards.gpus import GPUS
from bench.cells.config import CellConfig
from bench.commands.emulate import EmulateConfig
from bench.commands.emulate import main as emulate_command
from bench.emulate.build import why_not
from bench.predict.predictor import predict
from bench.scripts import FunctionFailed, emulated
from bench.scripts.script_report import KINDS
from bench.scripts.script_run import ScriptOptions, run_script
from bench.units import MIB
from fptplus import InvalidInput

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).parent / "training_script.py"
LAYER_BYTES = 4 * WIDTH * WIDTH + 4 * WIDTH
DOORS = ("full", "adalora", "fptplus")
"""Methods that are run through both doors."""


def emulate(folder, *words, options=(), **settings):
    """The command, from a folder of the user's."""
    command = [sys.executable, "-m", "bench", "emulate", "--gpu", "rtx4060", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | settings
    return subprocess.run(
        [*command, "--", sys.executable, SCRIPT, *map(str, words)],
        cwd=folder, env=environment, input="hello\n", capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


@pytest.fixture
def emulate_here(tmp_path, monkeypatch, capfd):
    """The command in this process, which draws nothing: its exit status, its words and the report."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("bench.scripts.script_timeline.write_timeline", lambda run, folder: None)

    def call(*command, gpu=("rtx4060",), **options):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        status = emulate_command(
            EmulateConfig(gpu=gpu, out=str(folder / "emulated"), command=(sys.executable, *command), **options)
        )
        return status, capfd.readouterr().err, folder

    return call


def report_of(folder):
    (path,) = folder.glob("emulated/*/*/report.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run to the end: its folder, its process, its report."""
    folder = tmp_path_factory.mktemp("user")
    process = emulate(folder, "--exit", 3)
    return folder, process, report_of(folder)


def test_arguments_input_output_and_exit_status_pass_through(ran):
    _, process, report = ran
    assert process.returncode == report["exit_status"] == 3
    assert process.stdout.startswith("read: hello\nallocated: ")
    assert process.stdout.count("\n") == 2, "the report is on the error stream"


def test_the_peak_is_pytorch_s_own(ran):
    _, process, report = ran
    (process_report,) = report["processes"]
    assert process_report["peak_allocated_bytes"] == int(process.stdout.split()[-1])
    assert process_report["peak_by_step"][-1] == process_report["peak_allocated_bytes"]
    assert process_report["num_steps"] == 5 and process_report["kernel_launches"] > 100
    context = process_report["process_bytes"] - process_report["peak_reserved_bytes"]
    assert context == report["context_bytes"] and report["fits"] == "yes"


def test_what_is_in_use_at_the_peak_is_known_by_kind(ran):
    *_, report = ran
    (told,) = report["processes"]
    kinds = told["by_kind"]
    assert set(kinds) == set(KINDS) and told["peak_is_recorded"]
    assert kinds["weights"] == 4 * LAYER_BYTES and kinds["optimizer"] >= 2 * 4 * LAYER_BYTES
    assert sum(kinds.values()) == pytest.approx(told["peak_allocated_bytes"], rel=0.02)
    place = told["peak_place"]
    line = SCRIPT.read_text().splitlines()[int(place["line"].split(":")[1].split()[0]) - 1].strip()
    assert (place["step"], place["phase"], line) == (1, "optimizer", "optimizer.step()")
    assert {"weights": "0.0.weight", "gradients": "0.0.weight"}.items() <= {
        (tensor["kind"], tensor["name"]) for tensor in told["largest"]
    }


def test_the_words_fit_80_columns_and_say_it_all(ran):
    _folder, process, _ = ran
    lines = process.stderr.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].startswith("emulated: no kernel runs here")
    assert any(line.startswith("  fits with 7.") and line.endswith(" GiB to spare") for line in lines)
    assert any("peak at step 1, optimizer, " in line and "training_script.py" in line for line in lines)
    assert lines[-1].startswith("reports in emulated/")


def test_what_it_leaves_is_in_its_folder_and_can_be_looked_at(ran):
    folder, *_ = ran
    (run,) = folder.glob("emulated/*/rtx4060")
    assert [path.name for path in folder.iterdir()] == ["emulated"]
    assert {"report.json", "timeline.png", "timeline.svg", "timeline.html"} < {path.name for path in run.iterdir()}
    page = (run / "timeline.html").read_text()
    assert "<svg" in page and "Content-Security-Policy" in page and "http://" not in page.partition("<svg")[0]
    (snapshot,) = run.glob("*.pickle")
    assert pickle.loads(snapshot.read_bytes())["device_traces"][0]


def test_it_ends_after_the_steps_that_are_asked_for_and_the_environment_s_own_sitecustomize_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('own sitecustomize')\n")
    options = ["--stop-after-steps", "2", "--record-steps", "1"]
    process = emulate(tmp_path, "--steps", 10**9, options=options, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    assert process.returncode == 0 and "allocated" not in process.stdout
    assert process.stdout.startswith("own sitecustomize\n" * 2 + "read: hello\n"), "ours and the script's process"
    (told,) = report_of(tmp_path)["processes"]
    assert (told["num_steps"], told["ended"]) == (2, "stopped")


def test_running_out_of_memory_is_pytorch_s_own_error_with_its_place(emulate_here):
    status, said, folder = emulate_here(str(SCRIPT), gpu_memory="200MiB")
    assert status == 1 and "torch.OutOfMemoryError: CUDA out of memory." in said
    report = report_of(folder)
    assert report["fits"] == "no" and report["processes"][0]["out_of_memory"][-1]["step"] == 2
    assert "does not fit: out of memory: step 2, forward, training_script.py:" in " ".join(said.split())
    status, _, folder = emulate_here(str(SCRIPT), gpu_memory="200MiB", unlimited=True)
    assert status == 0 and report_of(folder)["fits"] != "yes", "it takes 208 MiB"


def test_the_largest_number_fits_and_the_next_does_not(emulate_here):
    take = "import sys, torch; torch.empty(int(sys.argv[-1]) * 2**25, dtype=torch.uint8, device='cuda')"
    status, said, _ = emulate_here("-c", take, gpu_memory="300MiB", find_batch_size="images")
    (line,) = (line for line in said.splitlines() if line.startswith("largest images"))
    largest = int(line.split()[-1])
    assert status == 0 and f"images {largest}: fits" in said
    assert f"images {largest + 1}: out of memory" in said


def test_cards_are_compared(emulate_here):
    _, said, _ = emulate_here("-c", "import torch; torch.empty(1, device='cuda')", gpu=("rtx4060", "h100"))
    table = said.splitlines()[-4:-1]
    assert [row.split()[-1] for row in table] == ["fits", "yes", "yes"] and "H100" in table[2]


def test_a_command_that_uses_no_card_is_said_to(tmp_path):
    command = [sys.executable, "-m", "bench", "emulate", "--", sys.executable, "-c", "print('hi')"]
    process = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert process.stdout == "hi\n" and "no process of the command has used the card" in process.stderr


@pytest.fixture(scope="module")
def through_this_door(tmp_path_factory):
    """Allocated and reserved bytes of each method's step in a script, by method."""
    folder = tmp_path_factory.mktemp("methods")
    script, answer = str(SCRIPT.with_name("method_script.py")), folder / "answer.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        run = run_script((sys.executable, script, str(answer), *DOORS), GPUS["a6000"], folder, ScriptOptions())
    assert run.exit_status == 0
    return json.loads(answer.read_text())


@pytest.mark.parametrize("method", DOORS)
def test_a_method_takes_the_same_bytes_through_this_door_as_through_the_benchmark(method, through_this_door):
    peak = predict(CellConfig(method=method, model="test_vit", res=64, batch_size=8)).peak
    assert through_this_door[method] == [peak.allocated_bytes, peak.reserved_bytes]


def test_ranks_talk_and_gradients_have_buckets_under_ddp(ran, tmp_path):
    """A replica takes what one process alone does and, in buckets, its gradients once more (PyTorch DDP paper, 4.2)."""
    command = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(SCRIPT), "--ddp")
    two = run_script(command, GPUS["rtx4060"], tmp_path, ScriptOptions(num_gpus=2))
    (alone,) = ran[-1]["processes"]
    assert [report.rank for report in two.reports] == [0, 1] and {report.device for report in two.reports} == {0, 1}
    extra = {report.peak_allocated_bytes - alone["peak_allocated_bytes"] for report in two.reports}
    assert len(extra) == 1 and extra.pop() == pytest.approx(4 * LAYER_BYTES, rel=0.01)


def test_a_function_runs_on_a_card_and_says_what_it_took():
    with emulated("rtx4060", memory="2GiB") as gpu:
        called = gpu.run(one_step, batch_size=8)
        assert called.fits and called.report.num_steps == 1
        assert gpu.run(allocate, 0.5).value == 2**29
        too_much = gpu.run(allocate, 3)
        assert not too_much.fits and too_much.value is None and "out of memory" in too_much.verdict.sentence
        with pytest.raises(FunctionFailed, match="fail has failed on the emulated NVIDIA GeForce RTX 4060"):
            gpu.run(fail)
        with pytest.raises(FunctionFailed, match="must use the CUDA device, it has used none"):
            gpu.run(build, 1)
        with pytest.raises(InvalidInput, match="must be one of a module"):
            gpu.run(lambda: 1)


def test_the_fixture_fails_a_test_whose_step_needs_more_than_its_card(emulated_gpu):
    called = emulated_gpu("t4").run(allocate, 1)
    assert called.fits and called.report.peak_allocated_bytes == 1024 * MIB
    assert not emulated_gpu("t4", memory="1GiB").run(allocate, 1).fits
