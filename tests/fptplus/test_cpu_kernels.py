"""How the CPU's kernels are compiled, kept and done without, and what all of them must satisfy."""

import logging
import shutil

import pytest
import torch

from fptplus import cpu_kernels
from fptplus.network.lean.side_attention import side_attention

pytestmark = pytest.mark.usefixtures("cpu_kernel")


@pytest.fixture
def first_use(monkeypatch, tmp_path):
    """As in a new process of a user who never used them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu_kernels._library.cache_clear()
    yield tmp_path
    cpu_kernels._library.cache_clear()


def attended(seed=0):
    torch.manual_seed(seed)
    given = torch.randn(5, 21, 3, 3, 8, requires_grad=True)
    out = side_attention(given, 18)
    out.square().sum().backward()
    return out.detach(), given.grad


def test_they_are_compiled_once_and_kept(first_use, caplog):
    caplog.set_level(logging.INFO)
    assert cpu_kernels.can_run_on(torch.zeros(1))
    (kept,) = first_use.glob("fptplus/*")
    assert kept.name.startswith("cpu_kernels-") and kept.suffix == ".so"
    written = kept.stat().st_mtime_ns
    cpu_kernels._library.cache_clear()
    assert cpu_kernels.can_run_on(torch.zeros(1))
    assert [path.stat().st_mtime_ns for path in first_use.glob("fptplus/*")] == [written]
    assert [record.getMessage() for record in caplog.records] == [f"compiling the CPU's kernels into {kept}"]


def test_without_a_compiler_the_log_says_so_and_operators_run(first_use, monkeypatch, caplog):
    right = attended()
    cpu_kernels._library.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for got, expected in zip(attended(), right, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "the CPU's kernels need a C++ compiler (g++), there is none; PyTorch's operators are used, slower"
    ]


def test_a_compiler_that_fails_is_reported_and_leaves_nothing(first_use, monkeypatch, caplog):
    monkeypatch.setattr(cpu_kernels, "FLAGS", (*cpu_kernels.FLAGS, "-fno-such-thing"))
    assert not cpu_kernels.can_run_on(torch.zeros(1))
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("the CPU's kernels could not be compiled") and "-fno-such-thing" in message
    assert not list(first_use.glob("fptplus/*"))


def test_a_folder_that_cannot_be_written_is_reported(first_use, monkeypatch, caplog):
    (first_use / "fptplus").write_text("a file where the folder should be")
    assert not cpu_kernels.can_run_on(torch.zeros(1))
    assert "could not be compiled" in caplog.text


def test_a_user_without_a_home_folder_is_told(first_use, monkeypatch, caplog):
    def home():
        raise RuntimeError("Could not determine home directory.")  # as pathlib says it

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(cpu_kernels.Path, "home", home)
    assert not cpu_kernels.can_run_on(torch.zeros(1))
    assert "Could not determine home directory." in caplog.text


def test_only_the_types_they_know_go_to_them():
    assert not cpu_kernels.can_run_on(torch.zeros(1, dtype=torch.float64))
    assert not cpu_kernels.can_run_on(torch.zeros(1), torch.zeros(1, dtype=torch.float16))
    assert not cpu_kernels.can_run_on(torch.zeros(1, device="meta"))


def test_the_number_of_threads_changes_nothing():
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(attended())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))
