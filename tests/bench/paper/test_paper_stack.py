"""The paper on the paper's software: what the committed rows say, and that the loop trains the plain model."""

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.emulate.build import CannotEmulate, device_libraries
from bench.paper.settings import SIX_SIDE_LAYERS
from bench.paper.stack import loop
from bench.paper.stack.__main__ import main
from bench.paper.stack.loop import Cell, StackJob
from bench.paper.stack.run_stack import emulate_stack
from bench.paper.stack.stack_cells import stack_cells, training_of
from bench.paper.stack.stack_rows import FILE, Stack, read_stack, write_stack
from bench.paper.stack.stack_table import conclusion, stack_lines
from fptplus import InvalidInput
from fptplus.reference import PlainFPT

ROOT = Path(__file__).parents[3]
COMMITTED = ROOT / "results" / "paper" / FILE
PYTHON = ROOT / ".nox" / "paper_stack" / "bin" / "python"
TINY = {
    "variant": "fptplus",
    "num_layers": 2,
    "num_prompts": 3,
    "lpm_dim": 24,
    "num_heads": 3,
    "dim": 12,
    "res": 32,
    "patch_size": 16,
    "num_classes": 5,
}


@pytest.fixture(scope="module")
def stack():
    return read_stack(COMMITTED)


def test_every_printed_memory_of_fpt_and_fptplus_has_a_row(stack):
    assert len(stack.rows) == 23
    for row, printed in zip(stack.rows, stack_cells(), strict=True):
        assert (row.table, row.printed_mib) == (printed.table, printed.printed)
        assert (row.method, row.model, row.res) == (printed.cell.method, printed.cell.model, printed.cell.res)
    assert {row.method for row in stack.rows if row.table == "III"} == {"fpt", SIX_SIDE_LAYERS}


def test_the_software_is_the_papers(stack):
    assert {(row.torch_version, row.cuda_version) for row in stack.rows} == {("2.0.0+cu117", "11.7")}
    assert all("A6000" in row.gpu for row in stack.rows)


def test_printed_less_reserved_is_one_constant_within_one_stored_block(stack):
    for evaluated in (False, True):
        low, high = stack.constants_mib(evaluated=evaluated)
        assert low <= high and low >= 340 and high <= 356
    assert 346 <= stack.context_mib <= 350


def test_at_one_of_two_moments_it_is_that_constant_within_a_segment(stack):
    assert max(abs(stack.unexplained_mib(row)) for row in stack.rows) <= 2
    evaluated = {(row.table, row.row) for row in stack.rows if stack.counts_evaluation(row)}
    assert evaluated == {("I", "FPT"), ("VI", "k = 2"), ("VI", "k = 4")}


def test_an_evaluation_adds_one_stored_block_at_most(stack):
    """But for a segment or two of small tensors."""
    assert all(0 <= row.reserved_mib - row.training_reserved_mib <= row.block_segment_mib + 4 for row in stack.rows)
    added = [row for row in stack.rows if row.reserved_mib - row.training_reserved_mib >= row.block_segment_mib]
    assert len(added) >= 15


def test_one_wrong_row_and_there_is_no_constant(stack):
    row = stack.rows[1]
    wrong = replace(row, training_reserved_mib=row.training_reserved_mib + row.block_segment_mib + 8)
    others = Stack((stack.rows[0], wrong, *stack.rows[2:]))
    low, high = others.constants_mib(evaluated=False)
    assert low > high
    assert "NOT one constant" in next(conclusion(others))


def test_a_block_is_the_keys_of_a_batch(stack):
    """16 images; of ViT-B at 512 px 205 tokens of 64 numbers of 4 bytes in each layer and head."""
    blocks = {(row.table, row.row): row.block_mib for row in stack.rows}
    assert blocks["I", "FPT+"] == pytest.approx(16 * 6 * 12 * 205 * 64 * 4 / 2**20)
    assert blocks["I", "FPT"] == pytest.approx(16 * 12 * 12 * 205 * 64 * 4 / 2**20)
    assert blocks["III", "FPT+, 128 px"] == pytest.approx(16 * 6 * 16 * 13 * 64 * 4 / 2**20)


def test_the_table_fits_a_terminal_of_80_columns(stack):
    lines = list(stack_lines(stack))
    assert len(lines) == 3 + 23 + 5
    assert max(map(len, lines)) <= 80


def test_rows_are_kept_as_they_are(tmp_path, stack):
    write_stack(tmp_path / FILE, stack)
    assert read_stack(tmp_path / FILE) == stack
    assert (tmp_path / FILE).read_bytes() == COMMITTED.read_bytes()


def test_without_a_file_there_are_no_rows(tmp_path):
    assert not read_stack(tmp_path / FILE).rows


@pytest.mark.parametrize("damage", [("reserved_mib", "reserved"), ("1824", "many")])
def test_a_damaged_file_is_refused(tmp_path, damage):
    (tmp_path / FILE).write_text(COMMITTED.read_text().replace(*damage))
    with pytest.raises(InvalidInput, match="make it again by `nox -s paper_stack`"):
        read_stack(tmp_path / FILE)


def test_what_is_trained_has_the_papers_sizes():
    wanted = (("I", "FPT+, supervised"), ("III", "FPT, 128 px"), ("III", "FPT+, 640 px"))
    cells = {(one.table, one.row): one.cell for one in stack_cells()}
    small, fpt, large = (training_of(cells[name]) for name in wanted)
    assert (small["model"]["num_layers"], small["model"]["dim"], small["num_tokens"]) == (6, 96, 205)
    assert (large["model"]["num_layers"], large["model"]["dim"], large["num_tokens"]) == (6, 128, 320)
    assert (fpt["model"]["num_layers"], fpt["model"]["res"], fpt["num_tokens"]) == (24, 224, 13)


@pytest.mark.parametrize("variant", ["fpt", "fptplus"])
def test_fusing_at_once_gives_the_same_numbers(variant):
    torch.manual_seed(0)
    once = PlainFPT(**TINY | {"variant": variant}, fuses_at_once=True).eval()
    layer_by_layer = PlainFPT(**TINY | {"variant": variant}).eval()
    layer_by_layer.load_state_dict(once.state_dict())
    images, features = torch.randn(2, 3, 32, 32), torch.randn(2, 2, 2, 3, 7, 8)
    torch.testing.assert_close(once(images, features), layer_by_layer(images, features))


def test_the_loop_needs_nothing_but_pytorch_and_what_opens_the_package():
    modules = ("bench/__init__", "bench/paper/__init__", "bench/paper/stack/__init__", "bench/paper/stack/loop")
    for name in (*modules, "fptplus/__init__", "fptplus/reference"):
        tree = ast.parse((ROOT / f"{name}.py").read_text())
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        allowed = sys.stdlib_module_names | {"torch"} | ({"lazy_loader"} if name == "fptplus/__init__" else set())
        assert not [m for m in imported if m.split(".")[0] not in allowed and m != "fptplus.reference"], name
    assert '"torch==2.0.0", "numpy<2", "lazy_loader"' in (ROOT / "noxfile.py").read_text()


def test_the_loop_is_imported_where_nothing_but_pytorch_and_lazy_loader_is_installed():
    missing = ("timm", "torchvision", "peft", "pandas", "tyro", "rich", "matplotlib", "filelock", "PIL")
    code = f"import sys; sys.modules |= dict.fromkeys({missing}); import bench.paper.stack.loop"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_loop_drops_the_last_images_of_an_epoch_and_evaluates_all(monkeypatch):
    steps, evaluated, plain_step = [], [], loop.plain_step
    monkeypatch.setattr(loop, "DEVICE", "cpu")
    monkeypatch.setattr(loop, "plain_step", lambda *of: steps.append(len(of[2])) or plain_step(*of))
    monkeypatch.setattr(loop, "evaluate", lambda *of, evaluate=loop.evaluate: evaluated.append(evaluate(*of)))
    job = StackJob(batch_size=4, train_images=11, validation_images=6, epochs=2)
    memory = loop.train(job, Cell(TINY, num_tokens=7))
    assert steps == [4] * 4
    assert [[len(logits) for logits in batches] for batches in evaluated] == [[4, 2]] * 2
    assert memory.block_bytes == 4 * 2 * 3 * 7 * 8 * 4


def test_an_interpreter_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="which is not there; `nox -s paper_stack` makes its environment"):
        emulate_stack(tmp_path / "python", [])


def test_another_pytorch_is_refused():
    with pytest.raises(
        InvalidInput, match=f"must be an interpreter with PyTorch 2.0.0, .* has {torch.__version__[:3]}"
    ):
        emulate_stack(Path(sys.executable), [])


def test_the_command_keeps_and_prints_what_was_emulated(tmp_path, monkeypatch, capsys, stack):
    monkeypatch.setattr("bench.paper.stack.__main__.emulate_stack", lambda python, printed: stack)
    assert main(["--results", str(tmp_path)]) == 0
    assert (tmp_path / "paper" / FILE).read_bytes() == COMMITTED.read_bytes()
    assert "one constant within one block in all 23 cells" in capsys.readouterr().out


@pytest.mark.skipif(not PYTHON.exists(), reason="`nox -s paper_stack` makes the environment with PyTorch 2.0.0")
def test_the_committed_rows_are_what_the_software_does_today(stack):
    try:
        device_libraries(next(PYTHON.parents[1].glob("lib/python3*/site-packages/torch")))
    except CannotEmulate as error:
        pytest.skip(str(error))
    wanted = {("I", "FPT+, supervised"), ("III", "FPT+, 128 px")}
    chosen = [one for one in stack_cells() if (one.table, one.row) in wanted]
    rows = {(row.table, row.row): row for row in stack.rows}
    for row in emulate_stack(PYTHON, chosen).rows:
        assert row == rows[row.table, row.row]
