"""An unchanged script runs on an emulated card, and its memory is reported."""

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_script import WIDTH, allocate, build, fail, one_step

from bench.cards.gpus import GPUS
from bench.cells.config import CellConfig
from bench.commands import emulate as emulate_command
from bench.commands.emulate import EmulateConfig
from bench.emulate.build import find_torch, why_not
from bench.predict.predictor import predict
from bench.scripts import FunctionFailed, emulated
from bench.scripts.script_report import KINDS, read_reports
from bench.scripts.script_run import ScriptOptions, run_script, script_environment
from bench.units import MIB
from fptplus import InvalidInput
from methods import METHODS

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).parent / "training_script.py"
LAYER_BYTES = 4 * WIDTH * WIDTH + 4 * WIDTH
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
    monkeypatch.setattr("bench.scripts.script_timeline.write_timeline", lambda *run: None)

    def call(*command, gpu=("rtx4060",), **options):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        status = emulate_command.main(
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
    looks = "import importlib.util\nassert importlib.util.find_spec('torch')\n"  # as libraries do before they import it
    (tmp_path / "sitecustomize.py").write_text(f"{looks}print('own sitecustomize')\n")
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


def test_ctrl_c_and_termination_reach_the_script(tmp_path):
    """Ctrl-C is the script's to answer; a command that is told to end tells its script so."""
    script = tmp_path / "wait.py"
    script.write_text(
        "import signal, sys, time, torch\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('terminated')))\n"
        "torch.zeros(1, device='cuda')\nprint('begun', flush=True)\ntime.sleep(100)\n"
    )
    command = [sys.executable, "-m", "bench", "emulate", "--", sys.executable, str(script)]
    for number, status, output in ((signal.SIGINT, 130, "begun\n"), (signal.SIGTERM, 143, "begun\nterminated\n")):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True,
        ) as process:  # fmt: skip
            begun = process.stdout.readline()
            if number == signal.SIGINT:
                os.killpg(process.pid, number)  # as a terminal does
            else:
                process.send_signal(number)
            assert (process.wait(60), begun + process.stdout.read()) == (status, output)


def test_a_command_that_uses_no_card_is_said_to(tmp_path):
    command = [sys.executable, "-m", "bench", "emulate", "--", sys.executable, "-c", "print('hi')"]
    process = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert process.stdout == "hi\n" and "no process of the command has used the card" in process.stderr


def test_the_methods_take_the_same_bytes_through_this_door_as_through_the_benchmark(tmp_path):
    script, output = SCRIPT.with_name("method_script.py"), tmp_path / "output.txt"
    options = ScriptOptions(record_steps=0, output=output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        run = run_script((sys.executable, str(script), *METHODS), GPUS["a6000"], tmp_path, options)
    assert run.exit_status == 0, output.read_text()
    found = dict(line.split(maxsplit=1) for line in output.read_text().splitlines() if line.split()[0] in METHODS)
    peaks = {
        method: predict(CellConfig(method=method, model="test_vit", res=64, batch_size=8)).peak for method in METHODS
    }
    assert found == {method: f"{peak.allocated_bytes} {peak.reserved_bytes}" for method, peak in peaks.items()}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Two ranks' run, and the peaks in bytes of each way to share the work, by rank."""
    folder = tmp_path_factory.mktemp("sharded")
    options = ScriptOptions(num_gpus=2, record_steps=1, output=folder / "output.txt")
    words = ("-m", "torch.distributed.run", "--nproc-per-node", "2", str(SCRIPT.with_name("sharded_script.py")))
    run = run_script((sys.executable, *words), GPUS["rtx4060"], folder, options)
    output = options.output.read_text()
    assert run.exit_status == 0, output
    lines = [line.split() for line in output.splitlines() if re.fullmatch(r"[01] [a-z]+ \d+ 2", line)]
    peaks = {(int(rank), way): int(num_bytes) for rank, way, num_bytes, _ in lines}
    return run, peaks


SHARDED_LAYERS = 32


def shared_out(way):
    """Bytes that a rank holds apart from what any way to train needs: sums of W, weights; L, those of one layer.

    Weights, gradients and the two states of AdamW are four times W.
    """
    weights, layer = SHARDED_LAYERS * LAYER_BYTES, LAYER_BYTES
    return {
        "alone": 4 * weights,
        # gradients once more, in buckets (PyTorch Distributed, VLDB 2020, section 4.2)
        "ddp": 4 * weights + weights,
        # states divided by the ranks (ZeRO, SC 2020, section 5.1); gradients lie in buckets, but for the one just made
        "zero": 2 * weights + 2 * weights // 2 + layer,
        # all divided by the ranks (section 5.3); gathered: this layer and the next; whole: this layer's gradient
        "fsdp": 4 * weights // 2 + 2 * layer + layer,
    }[way]


@pytest.mark.parametrize("way", ["ddp", "zero", "fsdp"])
def test_sharing_the_work_takes_what_the_papers_say(way, sharded):
    run, peaks = sharded
    assert [report.rank for report in run.reports] == [0, 1] and {report.device for report in run.reports} == {0, 1}
    for rank in (0, 1):
        rest = peaks[rank, "alone"] - shared_out("alone")
        assert 0 < rest < 20 * MIB, "workspaces and activations"
        assert peaks[rank, way] == pytest.approx(shared_out(way) + rest, rel=0.01)


def test_two_hosts_on_one_machine_find_each_other(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = []
    for rank in ("0", "1"):
        folder = emulate_command.new_folder(tmp_path)
        variables = script_environment(find_torch(), GPUS["a6000"], folder, ScriptOptions(record_steps=1))
        words = ("--nnodes", "2", "--node-rank", rank, "--master-addr", "127.0.0.1", "--master-port", str(port))
        command = [sys.executable, "-m", "torch.distributed.run", *words, str(SCRIPT), "--ddp", "--steps", "1"]
        with (folder / "output.txt").open("w") as output:
            hosts.append((folder, subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=output)))
    assert [process.wait(timeout=300) for _, process in hosts] == [0, 0]
    for rank, (folder, _) in enumerate(hosts):
        (report,) = read_reports(folder)
        assert (report.rank, report.device) == (rank, 0), "each has a card of its own"
        assert "told: [{'rank': 0}, {'rank': 1}]" in (folder / "output.txt").read_text()


def one_wide_step():
    import torch
    from torch import nn

    model = nn.Sequential(nn.Sequential(nn.Linear(64, 4096), nn.GELU()), nn.Linear(4096, 4096)).cuda()
    optimizer = torch.optim.SGD(model.parameters())
    model(torch.zeros(8192, 64, device="cuda")).mean().backward()
    optimizer.step()


def steps_with_closures(ways):
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(64, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 64)).cuda()
    optimizer = torch.optim.AdamW(model.parameters())

    def passes():
        optimizer.zero_grad()
        loss = model(torch.zeros(2**17, 64, device="cuda")).mean()
        loss.backward()
        return loss

    for way in ways:
        optimizer.step(passes) if way == "place" else optimizer.step(closure=passes)


def test_passes_inside_an_optimizer_s_step_are_no_part_of_it():
    """PyTorch's closures, which Lightning trains with."""
    with emulated("a6000") as gpu:
        report = gpu.run(steps_with_closures, ["place", "name", "name"]).report
    assert report.num_steps == 3 and report.peak_place.phase == "backward"
    assert report.by_kind["activations"] >= 4 * 4096 * 2**17
    (_, *steps) = [phase for *_, phase in report.phases if phase != "setup"]
    assert steps.count("optimizer") == steps.count("backward") == 3


def waits_for_a_kernel():
    import torch

    torch.multiprocessing.spawn(_waits, nprocs=1)


def _waits(_rank):
    import torch

    end = time.monotonic() + 8
    flag = torch.zeros(1, device="cuda")
    while not flag.item() and time.monotonic() < end:
        time.sleep(0.05)


def test_memory_of_the_backward_pass_belongs_to_its_modules():
    with emulated("a6000") as gpu:
        report = gpu.run(one_wide_step).report
    backward = [tensor for tensor in report.largest if tensor.phase == "backward" and not tensor.name]
    assert (report.peak_place.phase, report.peak_place.module) == ("backward", "1")
    line = next(
        n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "model(torch.zeros(8192" in text
    )
    assert [tensor.module for tensor in backward[:3]] == ["", "1", "1"], "the mean, then the largest layer"
    assert all(tensor.line.endswith(f"test_script_run.py:{line} (one_wide_step)") for tensor in backward)
    assert report.by_module["1"] >= 4 * 4096 * 4096 + 4 * 8192 * 4096
    assert sum(report.by_module.values()) == sum(report.by_kind.values())
    rows, names = report.timeline_modules["rows"], report.timeline_modules["names"]
    assert [sum(row) for row in rows] == [sum(row[1:]) for row in report.timeline] and {"0", "1"} <= set(names)


def test_a_loop_that_waits_for_a_kernel_is_named_also_in_a_child(monkeypatch, capfd):
    monkeypatch.setenv("EMULATED_QUIET_S", "1")
    with emulated("a6000") as gpu:
        called = gpu.run(waits_for_a_kernel)
    assert called.report.waits_at.endswith("(_waits)")
    (said, *_) = [line for line in capfd.readouterr().err.splitlines() if "no kernel has been launched" in line]
    assert "(_waits). Kernels do not run here" in said


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
