"""Each card of the catalogue, queried by PyTorch on the emulated device, is as the catalogue describes it."""

import pytest
import torch

from bench.cards.gpus import GPUS
from bench.cards.probe import ask
from bench.emulate.pool import Job
from bench.units import MIB


@pytest.fixture(scope="module")
def answers(emulated_pool):
    """Properties, and free and total memory, of each card."""
    properties = emulated_pool.map(ask, [Job(gpu=gpu, arguments=()) for gpu in GPUS.values()])
    properties = dict(zip(GPUS, properties, strict=True))
    memory = emulated_pool.map(torch.cuda.mem_get_info, [Job(gpu=gpu, arguments=(0,)) for gpu in GPUS.values()])
    return {name: (properties[name], found) for name, found in zip(GPUS, memory, strict=True)}


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_a_card_reports_itself_as_the_catalogue_has_it(answers, gpu):
    properties, _ = answers[gpu.name]
    assert properties.name == gpu.title
    assert properties.memory_bytes == gpu.memory_bytes
    assert properties.compute_capability == gpu.compute_capability
    assert properties.num_sms == gpu.num_sms
    assert properties.max_threads_per_sm == gpu.max_threads_per_sm


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_what_a_process_finds_free_is_the_cards_memory_less_its_own_context(answers, gpu):
    _, (free_bytes, total_bytes) = answers[gpu.name]
    assert total_bytes == gpu.memory_bytes
    assert total_bytes - free_bytes == pytest.approx(gpu.context_bytes, abs=2 * MIB)


def test_no_two_cards_are_the_same_device(answers):
    assert len({properties.uuid for properties, _ in answers.values()}) == len(GPUS)
