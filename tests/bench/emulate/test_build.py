"""The emulated device where it cannot be built, and with a cache that has been damaged."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from bench.emulate import build
from bench.emulate.build import CannotEmulate, device_libraries, find_torch, why_not
from fptplus import build_cache
from fptplus.build_cache import BuildFailed, built

needs_device = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fptplus"


@pytest.fixture
def nothing_found_yet():
    build._device_libraries.cache_clear()
    yield
    build._device_libraries.cache_clear()


def make(folder):
    (folder / "library.so").write_text("code")


def fake_torch(folder, version="2.14.0", cuda=None):
    (folder / "lib").mkdir(parents=True)
    lines = [f"__version__ = '{version}'", f"cuda: Optional[str] = {cuda!r}"]
    (folder / "version.py").write_text("\n".join(lines) + "\n")
    return folder


def test_a_pytorch_without_cuda_is_refused_with_the_cure(tmp_path):
    with pytest.raises(CannotEmulate, match=r"built for CUDA, 2.14.0\+cpu is not; install the ordinary build"):
        find_torch(fake_torch(tmp_path / "torch", "2.14.0+cpu"))


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_than_linux_are_refused(monkeypatch, system, tmp_path):
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(CannotEmulate, match="needs Linux"):
        find_torch(fake_torch(tmp_path / "torch", cuda="13.0"))


def test_a_machine_without_a_compiler_is_refused_with_the_cure(monkeypatch, tmp_path, nothing_found_yet):
    torch = fake_torch(tmp_path / "torch", cuda="13.0")
    (torch / "lib" / "libtorch_cuda.so").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotEmulate, match=r"no C\+\+ compiler; install g\+\+"):
        device_libraries(torch)


@needs_device
def test_a_pytorch_without_its_wheels_headers_is_refused(tmp_path, nothing_found_yet):
    torch = fake_torch(tmp_path / "torch", cuda="13.0")
    (torch / "lib" / "libtorch_cuda.so").touch()
    with pytest.raises(CannotEmulate, match="CUDA wheels are not installed next to it"):
        device_libraries(torch)


def test_what_was_built_is_not_built_again(cache):
    first = built("thing", ["source"], make)
    assert built("thing", ["source"], pytest.fail) == first


def test_another_source_is_another_build(cache):
    assert built("thing", ["source"], make) != built("thing", ["other source"], make)


@pytest.mark.parametrize("damage", ["cut", "gone", "no manifest"])
def test_what_is_damaged_is_built_again(cache, damage):
    folder = built("thing", ["source"], make)
    match damage:
        case "cut":
            (folder / "library.so").write_text("co")
        case "gone":
            (folder / "library.so").unlink()
        case "no manifest":
            (folder / "built.json").unlink()
    assert (built("thing", ["source"], make) / "library.so").read_text() == "code"


def test_a_build_that_fails_leaves_nothing(cache):
    def fail(folder):
        make(folder)
        raise BuildFailed("as asked")

    with pytest.raises(BuildFailed, match="as asked"):
        built("thing", ["source"], fail)
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_a_cache_that_others_can_write_is_refused(cache):
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(BuildFailed, match="writable by nobody else"):
        built("thing", ["source"], make)


def test_the_cache_is_the_users_alone(cache):
    built("thing", ["source"], make)
    assert stat.S_IMODE(cache.stat().st_mode) & 0o022 == 0
    assert cache.stat().st_uid == os.getuid()


def test_two_processes_build_once(cache, tmp_path):
    script = (
        "import time, pathlib\n"
        "from fptplus.build_cache import built\n"
        "def make(folder):\n"
        f"    with open({str(tmp_path / 'log')!r}, 'a') as log: log.write('built\\n')\n"
        "    time.sleep(0.3)\n"
        "    (folder / 'library.so').write_text('code')\n"
        "built('thing', ['source'], make)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_compiler_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(build_cache, "COMPILE_LIMIT_S", 0.2)
    with pytest.raises(BuildFailed, match="took longer than"):
        build_cache.run_tool(sys.executable, "-c", "import time; time.sleep(5)")


def test_what_a_hanging_compiler_started_ends_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr(build_cache, "COMPILE_LIMIT_S", 0.5)
    mark = tmp_path / "still running"
    with pytest.raises(BuildFailed, match="took longer than"):
        build_cache.run_tool("sh", "-c", f"(sleep 1.5; touch '{mark}') & wait")
    time.sleep(1.5)
    assert not mark.exists()


def test_a_build_in_progress_elsewhere_is_not_awaited_for_ever(cache, monkeypatch):
    built("thing", ["source"], make)
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    (folder / "library.so").unlink()
    monkeypatch.setattr(build_cache, "WAIT_LIMIT_S", 0.2)
    with FileLock(cache / f"{folder.name}.lock"), pytest.raises(BuildFailed, match="another process has held"):
        built("thing", ["source"], make)


@pytest.mark.parametrize("left", ["a killed build", "a link", "a file"])
def test_what_lies_in_the_way_is_cleared(cache, tmp_path, left):
    folder = built("thing", ["source"], make)
    if left == "a killed build":
        (folder / "library.so").unlink()
        (cache / f".build-{folder.name}-killed").mkdir()
    else:
        elsewhere = folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(elsewhere) if left == "a link" else folder.write_text("a file")
    assert (built("thing", ["source"], make) / "library.so").read_text() == "code"
    assert not folder.is_symlink() and not list(cache.glob(".build-*"))


def test_a_build_that_others_can_write_is_built_again(cache):
    folder = built("thing", ["source"], make)
    folder.chmod(0o777)
    (folder / "library.so").write_text("foreign")
    (folder / "built.json").write_text(json.dumps({"library.so": hashlib.sha256(b"foreign").hexdigest()}))
    assert (built("thing", ["source"], make) / "library.so").read_text() == "code"


def test_the_first_words_of_a_failed_compiler_are_told():
    with pytest.raises(BuildFailed, match="status 1: error: no such thing"):
        build_cache.run_tool(sys.executable, "-c", "import sys; sys.exit('warning: odd\\nerror: no such thing')")


@needs_device
def test_the_device_is_whole_and_names_its_libraries():
    names = {path.name for path in device_libraries().iterdir()}
    assert {"libemulated.so", "libcuda.so.1", "libnvidia-ml.so.1"} <= names
