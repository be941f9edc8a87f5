"""The catalogue of GPUs, compared with the vendor's data sheets for the same cards."""

import inspect
from dataclasses import replace
from unittest import mock

import pytest
import torch

from bench.cards.gpus import GPUS, LIMITS, Gpu, default_gpu, find_gpu, has_kernels
from bench.cards.probe import present_properties
from bench.cells.config import Selection
from bench.units import GIB
from fptplus import InvalidInput

LABEL_GB = {
    "v100-16gb": 16,
    "v100-32gb": 32,
    "t4": 16,
    "rtx2080ti": 11,
    "a100-40gb": 40,
    "a100-80gb": 80,
    "rtx3060": 12,
    "rtx3090": 24,
    "a6000": 48,
    "a10g": 24,
    "rtx4060": 8,
    "l4": 24,
    "rtx4090": 24,
    "l40s": 48,
    "h100": 80,
    "h200": 141,
    "b200": 192,
    "rtx5090": 32,
    "rtx-pro-6000": 96,
}
"""Memory as sold."""

CUDA_CORES = {
    "v100-16gb": 5120,
    "t4": 2560,
    "rtx2080ti": 4352,
    "a100-80gb": 6912,
    "rtx3060": 3584,
    "rtx3090": 10496,
    "a6000": 10752,
    "rtx4060": 3072,
    "l4": 7424,
    "rtx4090": 16384,
    "l40s": 18176,
    "h100": 16896,
    "h200": 16896,
    "rtx5090": 21760,
    "rtx-pro-6000": 24064,
}

BANDWIDTH_GB_S = {
    "v100-32gb": 900,
    "t4": 320,
    "rtx2080ti": 616,
    "a100-40gb": 1555,
    "a100-80gb": 2039,
    "rtx3060": 360,
    "rtx3090": 936,
    "a6000": 768,
    "a10g": 600,
    "rtx4060": 272,
    "l4": 300,
    "rtx4090": 1008,
    "l40s": 864,
    "h100": 3350,
    "h200": 4800,
    "b200": 7700,
    "rtx5090": 1792,
    "rtx-pro-6000": 1792,
}

every_card = pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)


@pytest.fixture
def present(monkeypatch):
    """Puts a CUDA device of a name, of 150 GB and 132 SMs, into this machine."""
    properties = mock.Mock(
        total_memory=150 * 10**9, major=9, minor=0, multi_processor_count=132, max_threads_per_multi_processor=2048
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)

    def put(title):
        properties.name = title
        present_properties.cache_clear()
        return default_gpu()

    yield put
    present_properties.cache_clear()


def test_the_catalogue_has_the_cards_people_ask_about():
    assert GPUS.keys() == LABEL_GB.keys()


def test_no_two_cards_have_a_name_or_title_in_common():
    assert len({gpu.title for gpu in GPUS.values()}) == len(GPUS)
    assert all(name == gpu.name == name.lower() for name, gpu in GPUS.items())


@every_card
def test_every_figure_of_a_card_has_its_source(gpu):
    assert gpu.memory_source and gpu.properties_source and gpu.context_source
    assert gpu.l2_bytes and gpu.memory_bus_bits
    assert bool(gpu.clocks_source) == bool(gpu.sm_clock_mhz or gpu.memory_clock_mhz)


@every_card
def test_a_process_can_have_a_little_less_than_the_memory_sold(gpu):
    label_bytes = LABEL_GB[gpu.name] * (10**9 if LABEL_GB[gpu.name] > 100 else GIB)
    assert 0.9 * label_bytes < gpu.memory_bytes <= 1.065 * label_bytes
    if label_bytes % GIB == 0:
        assert gpu.memory_bytes < label_bytes
    assert gpu.context.high_bytes < gpu.memory_bytes / 10


@pytest.mark.parametrize("name", CUDA_CORES)
def test_the_multiprocessors_have_the_cuda_cores_sold(name):
    gpu = GPUS[name]
    cores_per_sm = 128 if gpu.compute_capability >= (8, 6) and gpu.compute_capability != (8, 7) else 64
    assert gpu.num_sms * cores_per_sm == CUDA_CORES[name]


@pytest.mark.parametrize("name", BANDWIDTH_GB_S)
def test_bus_and_clock_give_the_bandwidth_sold(name):
    assert GPUS[name].memory_bytes_per_s / 1e9 == pytest.approx(BANDWIDTH_GB_S[name], rel=0.025)


def test_without_a_clock_there_is_no_bandwidth():
    assert replace(GPUS["a6000"], memory_clock_mhz=None).memory_bytes_per_s is None


@every_card
def test_a_card_has_the_limits_of_its_compute_capability(gpu):
    assert gpu.limits is LIMITS[gpu.compute_capability]
    assert gpu.max_threads_per_sm == gpu.limits.max_threads_per_sm


@pytest.mark.parametrize("limits", LIMITS.values(), ids=map(str, LIMITS))
def test_limits_agree_with_each_other(limits):
    assert limits.max_threads_per_sm % 32 == 0
    assert limits.shared_bytes_per_block < limits.shared_bytes_per_block_optin <= limits.shared_bytes_per_sm
    assert limits.registers_per_block <= limits.registers_per_sm


def test_since_ampere_a_kilobyte_of_shared_memory_is_the_systems():
    reserved = {
        capability: limits.shared_bytes_per_sm - limits.shared_bytes_per_block_optin
        for capability, limits in LIMITS.items()
    }
    assert {capability for capability, rest in reserved.items() if rest == 1024} == {
        capability for capability in LIMITS if capability >= (8, 0)
    }


@pytest.mark.parametrize(
    ("asked", "taken"), [((12, 1), (12, 0)), ((10, 3), (10, 0)), ((7, 2), (7, 0)), ((6, 1), (7, 0))]
)
def test_a_capability_that_is_not_listed_has_the_limits_of_the_nearest_below(asked, taken):
    assert replace(GPUS["a6000"], compute_capability=asked).limits is LIMITS[taken]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA RTX A6000", "a6000"),
        ("RTX A6000", "a6000"),
        ("GeForce RTX 3090", "rtx3090"),
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 3060 Ti", "nvidia-geforce-rtx-3060-ti"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", "nvidia-geforce-rtx-4060-laptop-gpu"),
        ("NVIDIA Unheard Of", "nvidia-unheard-of"),
    ],
)
def test_a_gpu_that_is_present_is_known_by_its_own_figures(present, title, name):
    gpu = present(title)
    assert gpu.name == name and gpu == find_gpu(name)
    assert (gpu.memory_bytes, gpu.memory_source) == (150 * 10**9, "the device")


def test_a_present_gpu_that_is_not_listed_has_no_figures_of_another_card(present):
    gpu = present("NVIDIA Unheard Of")
    assert gpu.l2_bytes is gpu.memory_bus_bits is gpu.sm_clock_mhz is gpu.memory_clock_mhz is None
    assert gpu.context_source.startswith("none known of this card")
    assert gpu.limits is LIMITS[9, 0]


def test_an_unknown_gpu_is_answered_with_the_known_ones():
    with pytest.raises(InvalidInput, match=r"gpu must be one of .*t4, .*got 'rtx390'; did you mean rtx3090"):
        find_gpu("rtx390")


def test_the_help_names_every_card():
    text = inspect.getsource(Selection)
    assert [name for name in GPUS if name not in text] == []


def card(*capability):
    return Gpu(
        name="x",
        title="x",
        memory_bytes=GIB,
        compute_capability=capability,
        num_sms=1,
        max_threads_per_sm=1024,
        memory_source="x",
    )


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((7, 0), ["sm_75", "sm_80"], False),
        ((12, 0), ["sm_100"], False),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((8, 9), ["compute_90"], False),
        ((10, 0), ["sm_100a"], True),
        ((8, 6), [], False),
    ],
)
def test_kernels_run_on_their_architecture_and_portable_ones_on_all_that_follow(capability, architectures, runs):
    assert has_kernels(card(*capability), architectures) is runs
