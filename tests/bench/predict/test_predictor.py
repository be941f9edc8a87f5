"""The choice between the emulated device and the meta trace, on machines with and without the emulated device."""

import sys

import pytest

from bench.cells.config import CellConfig
from bench.emulate import build
from bench.emulate.build import CannotEmulate
from bench.predict import predictor
from bench.predict.predictor import predict, predict_all, why_traced

CELL = CellConfig(method="linear", model="test_vit", res=64, batch_size=2)


def other_system(monkeypatch, tmp_path, *, platform):
    monkeypatch.setattr(sys, "platform", platform)


def build_for_cpus(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "find_torch", lambda folder=None: build_of(tmp_path, "2.14.0+cpu", "None"))


def without_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "find_torch", lambda folder=None: build_of(tmp_path, "2.14.0", "'13.0'"))
    monkeypatch.setenv("PATH", str(tmp_path))


find_torch = build.find_torch


def build_of(folder, version, cuda):
    """An installed PyTorch, as find_torch finds it."""
    (folder / "lib").mkdir(exist_ok=True)
    (folder / "lib" / "libtorch_cuda.so").touch()
    (folder / "version.py").write_text(f"__version__ = '{version}'\ncuda: Optional[str] = {cuda}\n")
    return find_torch(folder)


MACHINES = {
    "macOS": (lambda *here: other_system(*here, platform="darwin"), "needs Linux"),
    "Windows": (lambda *here: other_system(*here, platform="win32"), "needs Linux"),
    "a CPU build": (build_for_cpus, "needs a PyTorch built for CUDA, 2.14.0+cpu is not"),
    "no compiler": (without_compiler, "no C++ compiler"),
}
"""What makes this machine another one, and what is said of it."""


@pytest.fixture(params=MACHINES)
def reason(request, monkeypatch, tmp_path):
    """Of a machine that cannot emulate."""
    make, said = MACHINES[request.param]
    make(monkeypatch, tmp_path)
    build._device_libraries.cache_clear()
    why_traced.cache_clear()
    yield said
    build._device_libraries.cache_clear()
    why_traced.cache_clear()


def test_where_nothing_can_be_emulated_memory_is_traced_and_the_reason_is_one_sentence(reason):
    assert predict(CELL).by == "traced"
    said = why_traced("auto")
    assert said.startswith("memory is traced, not emulated: ") and reason in said
    assert said.endswith(".") and "\n" not in said and ". " not in said


def test_where_nothing_can_be_emulated_asking_for_it_is_refused_in_one_sentence_with_the_cure(reason):
    with pytest.raises(CannotEmulate) as refusal:
        list(predict_all([CELL], "emulated"))
    said = str(refusal.value)
    assert reason in said and any(cure in said for cure in ("install", "run it in a Linux container"))
    assert said.endswith(".") and "\n" not in said and ". " not in said


def test_traced_is_traced_wherever_it_is_asked_for():
    assert predict(CELL, "traced").by == "traced"
    assert why_traced("traced") == "memory is traced, as asked (--engine traced)."


def test_a_traced_prediction_says_that_cudnn_s_scratch_memory_is_not_known():
    assert predict(CELL, "traced").unknown_workspaces == "convolution"


def test_settings_of_the_allocator_cannot_be_traced():
    cell = CellConfig(method="linear", model="test_vit", res=64, alloc_conf="expandable_segments:True")
    (refusal,) = predict_all([cell], "traced")
    assert "alloc-conf must be left out where memory is traced" in str(refusal)
    assert predictor.falls_back(cell, refusal, "auto") is False
