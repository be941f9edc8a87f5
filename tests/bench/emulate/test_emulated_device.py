"""The emulated device itself: PyTorch's allocator and runtime calls on it, whatever the model."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import on_emulated_device as on_device
import pytest

from bench.cards.gpus import GPUS
from bench.emulate.build import why_not
from bench.emulate.pool import Job, JobFailed
from bench.units import GIB, MIB

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

A6000 = GPUS["a6000"]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pool(emulated_pool):
    return emulated_pool


def run(pool, function, *arguments, gpu=A6000):
    (answer,) = pool.map(function, [Job(gpu=gpu, arguments=arguments)])
    if isinstance(answer, Exception):
        raise answer
    return answer


def test_blocks_below_ten_mib_share_a_segment_of_twenty(pool):
    assert run(pool, on_device.allocator_settings_in_force, "max_split_size_mb:32") == 20 * MIB


def test_expandable_segments_grow_where_a_plain_allocator_would_need_a_second_segment(pool):
    reserved_bytes, _ = run(pool, on_device.expandable_segments)
    assert reserved_bytes == 60 * MIB  # plain: 30 + 60


def test_out_of_memory_is_pytorchs_own_with_the_cards_capacity(pool):
    message, (free_bytes, total_bytes), _ = run(pool, on_device.out_of_memory, 60 * GIB)
    assert "Tried to allocate 60.00 GiB" in message
    assert f"total capacity of {A6000.memory_bytes / GIB:.2f} GiB" in message
    assert total_bytes == A6000.memory_bytes
    assert total_bytes - free_bytes == A6000.context_bytes + 20 * MIB  # the context and one segment


def test_what_the_allocator_keeps_unused_is_given_back_before_it_gives_up(pool):
    retries, _ = run(pool, on_device.frees_what_it_keeps_before_it_gives_up, 36 * GIB)
    assert retries == 1


def test_a_card_of_any_size_needs_no_memory_of_this_machine(pool):
    huge = replace(A6000, memory_bytes=2**42)
    assert run(pool, on_device.frees_what_it_keeps_before_it_gives_up, 2**40, gpu=huge)[0] == 0


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool"])
def test_small_fills_are_real_and_large_ones_are_not(pool, name):
    small, large = run(pool, on_device.filled, name)
    assert small == [[1] * 9, [0] * 9, [1] * 9] and large == [0] * 3


def test_mixed_precision_takes_every_step(pool):
    assert run(pool, on_device.scaled_steps, 5) == 5


def test_small_copies_move_real_bytes_and_large_ones_come_back_as_zeros(pool):
    small, large_sum, _ = run(pool, on_device.small_copies)
    assert small == list(range(10))
    assert large_sum == 0


def test_kernels_are_counted_as_they_are_launched(pool):
    assert run(pool, on_device.launches_of_three_kernels) == 3


def test_a_captured_graph_launches_its_kernels_at_each_replay_and_none_while_it_is_captured(pool):
    launches, _ = run(pool, on_device.captured_graph)
    assert launches == 2 * 2  # a product and a relu, twice


def test_memory_used_by_two_streams_is_given_back(pool):
    assert run(pool, on_device.streams) == (0, 0)


def test_a_function_without_an_answer_fails_by_its_name(pool):
    message, names = run(pool, on_device.unanswered_function)
    assert "cusparseSpGEMM" in message
    assert names == "cusparseSpGEMM_createDescr"


def test_each_job_has_a_process_that_has_not_started_cuda(pool):
    first, second = run(pool, on_device.process), run(pool, on_device.process)
    assert first[0] != second[0]
    assert not first[1]


def test_a_job_that_dies_leaves_the_others(pool):
    jobs = [Job(gpu=A6000, arguments=()) for _ in range(3)]
    assert all(isinstance(answer, JobFailed) for answer in pool.map(on_device.dies, jobs))
    with pytest.raises(JobFailed, match="SIGKILL"):
        run(pool, on_device.dies)
    assert run(pool, on_device.launches_of_three_kernels) == 3


def test_a_killed_process_leaves_no_folder_and_no_process():
    starts = "from bench.emulate.pool import EmulatedPool; pool = EmulatedPool(); "
    waits = "print(pool._zygote.pid, pool._scratch.name, flush=True); input()"
    command = [sys.executable, "-c", starts + waits]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        zygote, folder = process.stdout.readline().split()
        process.kill()
    deadline = time.monotonic() + 60
    while (Path(folder).exists() or Path("/proc", zygote).exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(folder).exists() and not Path("/proc", zygote).exists()


def test_an_exception_of_a_job_is_given_and_not_raised(pool):
    (answer,) = pool.map(on_device.raises, [Job(gpu=A6000, arguments=())])
    assert isinstance(answer, ValueError)
    assert str(answer) == "as asked"


def test_answers_come_in_the_order_of_the_jobs(pool):
    jobs = [Job(gpu=A6000, arguments=(size * GIB,)) for size in (60, 70, 80, 90)]
    messages = [answer[0] for answer in pool.map(on_device.out_of_memory, jobs)]
    assert [message.split("allocate ")[1].split(" ")[0] for message in messages] == ["60.00", "70.00", "80.00", "90.00"]


def test_answers_that_nobody_waits_for_do_not_mix_with_later_ones(pool):
    jobs = [Job(gpu=A6000, arguments=()) for _ in range(4)]
    assert next(pool.map(on_device.launches_of_three_kernels, jobs)) == 3
    assert run(pool, on_device.process)[1] is False
