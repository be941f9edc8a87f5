"""Device errors that are outcomes, in PyTorch's own words, as its releases raise them."""

import pytest

from bench.cells.config import CellConfig
from bench.measure.outcome import outcome_of
from bench.units import MIB

CELL = CellConfig(method="linear", model="test_vit", res=64, device="cuda")


@pytest.mark.parametrize(
    ("message", "asked", "asked_bytes"),
    [
        ("CUDA out of memory. Tried to allocate 3.50 GiB. GPU 0 has a total of ...", "3.50 GiB", 7 * 2**29),
        ("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 ...", "20.00 MiB", 20 * MIB),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", None, None),
        (
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 512 bytes.",
            "512 bytes",
            512,
        ),
    ],
)
def test_out_of_memory_has_its_phase_and_bytes(message, asked, asked_bytes):
    outcome = outcome_of(RuntimeError(message), CELL, "warm-up, backward")
    assert (outcome["status"], outcome["ended_in_phase"]) == ("oom", "warm-up, backward")
    assert outcome["oom_asked_bytes"] == asked_bytes
    assert outcome["status_detail"].startswith(
        "out of memory during warm-up, backward" + (f", asked for {asked}" if asked else "") + ", last peak "
    )


def test_a_cpu_has_no_peak_of_cuda_memory():
    on_cpu = CellConfig(method="linear", model="test_vit", res=64, device="cpu")
    outcome = outcome_of(RuntimeError("can't allocate memory"), on_cpu, "building")
    assert outcome["last_peak_allocated_bytes"] is None
    assert outcome["status_detail"] == "out of memory during building"


def test_a_kernel_the_device_does_not_have_is_unsupported():
    outcome = outcome_of(RuntimeError("No available kernel. Aborting execution."), CELL, "warm-up, forward")
    assert outcome == {
        "status": "unsupported",
        "status_detail": "attention eager: No available kernel. Aborting execution.",
    }


def test_anything_else_is_a_fault():
    assert outcome_of(RuntimeError("device-side assert triggered"), CELL, "warm-up, forward") is None
