"""The environment of an emulated card, including in a process that is on one already."""

import pytest

from bench.cards.gpus import GPUS
from bench.emulate.build import device_libraries, why_not
from bench.emulate.launch import environment

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

A6000, H100 = GPUS["a6000"], GPUS["h100"]


def test_other_libraries_that_are_preloaded_stay(tmp_path):
    base = {"LD_PRELOAD": "libfast.so:libsafe.so", "LD_LIBRARY_PATH": "/opt/lib", "HOME": "/"}
    variables = environment(A6000, base=base)
    folder = device_libraries()
    assert variables["LD_PRELOAD"] == f"{folder}/libemulated.so:libfast.so:libsafe.so"
    assert variables["LD_LIBRARY_PATH"] == f"{folder}:/opt/lib"
    assert variables["HOME"] == "/"


def test_a_machine_inside_another_has_the_device_once_and_its_own_processes(tmp_path):
    outside = environment(A6000, count=2, state=tmp_path / "processes", base={"LD_PRELOAD": "libfast.so"})
    assert outside["EMULATED_GPU_STATE"] == str(tmp_path / "processes")
    assert environment(H100, base=outside) == environment(H100, base={"LD_PRELOAD": "libfast.so"})


def test_a_choice_among_this_machine_s_gpus_hides_no_emulated_one():
    assert environment(A6000, base={"CUDA_VISIBLE_DEVICES": "3"}) == environment(A6000, base={})
