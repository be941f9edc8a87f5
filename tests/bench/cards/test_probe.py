"""Ask for the GPU without touching it, and run one cell at a time on it."""

import os
import subprocess
from unittest import mock

import on_emulated_gpu as on_gpu
import pytest
import torch

from bench.cards import probe
from bench.cards.gpus import GPUS
from bench.cards.probe import Properties, present_properties
from bench.measure import device_lock
from fptplus import InvalidInput
from fptplus.held_lock import HeldByAnother

A6000 = GPUS["a6000"]
PROPERTIES = Properties(
    name="a GPU", uuid="cc", memory_bytes=1, compute_capability=(9, 0), num_sms=132, max_threads_per_sm=2048
)


@pytest.fixture
def another_process(monkeypatch):
    """The process that asks, faked; CUDA must not be started in this one."""
    present_properties.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", mock.Mock(side_effect=AssertionError("asked here")))
    answer = mock.create_autospec(subprocess.run)
    monkeypatch.setattr(probe.subprocess, "run", answer)
    yield answer
    present_properties.cache_clear()


def test_another_process_asks(on_card):
    properties, was_started_here = on_card(on_gpu.properties_and_whether_cuda_was_started)
    assert (properties.name, properties.memory_bytes) == (A6000.title, A6000.memory_bytes)
    assert (properties.compute_capability, properties.num_sms) == (A6000.compute_capability, A6000.num_sms)
    assert not was_started_here


def test_a_device_that_does_not_answer_is_told_in_one_sentence(another_process):
    another_process.return_value = mock.Mock(returncode=1, stderr="Traceback\nRuntimeError: no kernel image\n")
    with pytest.raises(InvalidInput, match="the CUDA device must answer, it says 'RuntimeError: no kernel image'"):
        present_properties()


def test_a_device_is_locked_by_its_uuid(monkeypatch, tmp_path):
    monkeypatch.setattr(device_lock.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(device_lock, "present_properties", lambda: PROPERTIES)
    with (
        device_lock.device_lock("cuda"),
        device_lock.device_lock("cpu"),
        pytest.raises(HeldByAnother, match=f"one process at a time, process {os.getpid()} "),
        device_lock.device_lock("cuda", limit_s=0),
    ):
        raise AssertionError
