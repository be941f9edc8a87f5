"""How the CPU's kernels are compiled, kept and done without, and what all of them must satisfy."""

import logging
import shutil

import pytest
import torch

from fptplus import build_cache, cpu_kernels
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
    (kept,) = first_use.glob("fptplus/*/*.so")
    assert kept.parent.name.startswith("cpu_kernels-")
    written = kept.stat().st_mtime_ns
    cpu_kernels._library.cache_clear()
    assert cpu_kernels.can_run_on(torch.zeros(1))
    assert [path.stat().st_mtime_ns for path in first_use.glob("fptplus/*/*.so")] == [written]
    compiled = f"compiling the CPU's kernels into {first_use / 'fptplus'}"
    assert [record.getMessage() for record in caplog.records] == [compiled]


@pytest.mark.parametrize("harm", ["truncated", "another's bytes"])
def test_kernels_that_are_not_as_they_were_compiled_are_compiled_again(first_use, harm):
    assert cpu_kernels.can_run_on(torch.zeros(1))
    (kept,) = first_use.glob("fptplus/*/*.so")
    whole = kept.read_bytes()
    kept.unlink()  # the loaded file must not change under this process
    kept.write_bytes(whole[:100] if harm == "truncated" else whole[:-1] + b"x")
    cpu_kernels._library.cache_clear()
    assert cpu_kernels.can_run_on(torch.zeros(1))
    assert kept.read_bytes()[:-1] == whole[:-1] and kept.read_bytes()[-1:] == whole[-1:]


def test_kernels_in_a_folder_that_others_can_write_are_not_loaded(first_use, caplog):
    (first_use / "fptplus").mkdir()
    (first_use / "fptplus").chmod(0o777)
    assert not cpu_kernels.can_run_on(torch.zeros(1))
    assert "writable by nobody else" in caplog.text


def test_a_compiler_that_hangs_is_given_up(first_use, monkeypatch, caplog, tmp_path):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nsleep 60\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(build_cache, "COMPILE_LIMIT_S", 0.2)
    assert not cpu_kernels.can_run_on(torch.zeros(1))
    assert "g++ took longer than 0.2 s" in caplog.text


def test_a_compiler_may_say_anything(first_use, monkeypatch, caplog, tmp_path):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nprintf '\\377\\376' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert not cpu_kernels.can_run_on(torch.zeros(1))
    assert "could not be compiled" in caplog.text


def test_without_a_compiler_the_log_says_so_and_operators_run(first_use, monkeypatch, caplog):
    right = attended()
    cpu_kernels._library.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for got, expected in zip(attended(), right, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "the CPU's kernels could not be compiled, PyTorch's operators are used, slower: "
        "there is no C++ compiler; install g++"
    ]


def test_a_compiler_that_fails_is_reported_and_leaves_nothing(first_use, monkeypatch, caplog):
    monkeypatch.setattr(cpu_kernels, "FLAGS", (*cpu_kernels.FLAGS, "-fno-such-thing"))
    assert not cpu_kernels.can_run_on(torch.zeros(1))
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("the CPU's kernels could not be compiled") and "-fno-such-thing" in message
    assert [path for path in first_use.glob("fptplus/*") if path.suffix != ".lock"] == []


def test_a_folder_that_cannot_be_written_is_reported(first_use, monkeypatch, caplog):
    (first_use / "fptplus").write_text("a file where the folder should be")
    assert not cpu_kernels.can_run_on(torch.zeros(1))
    assert "could not be compiled" in caplog.text


def test_a_user_without_a_home_folder_is_told(first_use, monkeypatch, caplog):
    def home():
        raise RuntimeError("Could not determine home directory.")  # as pathlib says it

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(build_cache.Path, "home", home)
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
