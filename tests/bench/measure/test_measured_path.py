"""A cell is measured on the emulated device as on a GPU: counters, out of memory, other processes; nothing is timed."""

from dataclasses import fields, replace

import on_emulated_gpu as on_gpu
import pytest

from bench.cards.gpus import GPUS
from bench.cells.config import CellConfig
from bench.cells.work import work_on_device
from bench.measure.meters.memory import BY_PROCESS_ID, MemoryReading
from bench.measure.meters.power import PowerReading
from bench.measure.meters.throughput import ThroughputReading
from bench.records.measured_columns import MEASURED_MEMORY, MEASURED_TIME, recordable
from bench.records.record import COLUMNS, new_record
from bench.units import GIB, MIB
from fptplus import InvalidInput
from fptplus.network.features import tensors_of

A6000 = GPUS["a6000"]
CELL = CellConfig(method="linear", model="test_vit", res=64, batch_size=2, device="cuda")
SMALL_CARD_BYTES = A6000.context_bytes + 40 * MIB


@pytest.fixture(scope="module")
def whole_story(emulated_pool):
    """A cell with all that there is to measure, whole epochs included."""
    cell = replace(CELL, epochs=1, epoch_images=4)
    (story,) = emulated_pool.map(on_gpu.story_of, [on_gpu.job(cell, on_gpu.WHOLE)])
    return story


def test_the_counters_are_in_their_order_and_add_up(whole_story):
    columns = whole_story.columns
    assert "status" not in columns
    sizes = [columns[f"measured_{name}_bytes"] for name in ("peak_allocated", "peak_reserved", "process", "device")]
    assert sizes == sorted(sizes) and sizes[0] > 0
    assert columns["measured_context_bytes"] == A6000.context_bytes
    assert columns["measured_process_bytes"] == A6000.context_bytes + columns["measured_peak_reserved_bytes"]
    assert columns["measured_fragmentation_bytes"] == sizes[1] - sizes[0]
    assert columns["measured_run_peak_allocated_bytes"] >= sizes[0]
    assert columns["process_memory_source"] == BY_PROCESS_ID


def test_the_device_is_named_so_that_nobody_takes_it_for_one_that_is_there(whole_story):
    columns = whole_story.columns
    assert (columns["device"], columns["device_memory_bytes"]) == ("NVIDIA RTX A6000, emulated", A6000.memory_bytes)
    assert columns["gpu_uuid"] and columns["driver_version"] == "emulated"


def test_every_part_runs_and_none_of_them_times_or_meters_anything(whole_story):
    assert whole_story.phase == "running epochs" and whole_story.notes == []
    assert not set(MEASURED_TIME) & set(whole_story.columns)


def test_its_record_has_no_time_no_power_and_nothing_measured(whole_story):
    record = replace(new_record(CELL), **recordable(whole_story.columns))
    timed = ("_time_s", "_img_s", "_power_w", "_j_per_img", "_mhz", "wall_s", "window_s")
    filled = {name for name in COLUMNS if getattr(record, name) is not None}
    assert not [name for name in filled if name.startswith("measured_") or name.endswith(timed)]
    assert record.is_emulated and not record.is_measured
    allocated_mib = round(whole_story.columns["measured_peak_allocated_bytes"] / MIB)
    told = f"ran on NVIDIA RTX A6000, emulated (allocated {allocated_mib} MiB, reserved "
    assert record.status_detail.startswith(told) and record.status_detail.endswith("where nothing is measured")


def test_all_that_the_meters_read_is_among_the_columns_that_an_emulated_device_cannot_fill():
    assert {field.name for field in fields(MemoryReading)} == set(MEASURED_MEMORY)
    assert {field.name for kind in (ThroughputReading, PowerReading) for field in fields(kind)} < set(MEASURED_TIME)
    named = {name for name in COLUMNS if name.endswith(("_time_s", "_img_s", "_w", "_mhz", "_j_per_img"))}
    assert {name for name in named - set(MEASURED_TIME) if not name.startswith("predicted_")} == {"host_time_s"}


@pytest.mark.parametrize("name", [*MEASURED_MEMORY, *MEASURED_TIME])
def test_a_record_of_an_emulated_device_with_anything_measured_is_refused(name):
    emulated = replace(new_record(CELL), device="NVIDIA RTX A6000, emulated")
    with pytest.raises(InvalidInput, match=rf"must have nothing measured, it has {name}; move it away"):
        replace(emulated, **{name: 1})


def test_a_smaller_card_runs_out_of_memory_with_phase_bytes_and_last_peak(on_card):
    cell = replace(CELL, method="full", model="vit_s", vram_bytes=A6000.context_bytes + 200 * MIB)
    columns = on_card(on_gpu.story_of, cell).columns
    assert columns["status"] == "oom"
    assert columns["ended_in_phase"] in ("warm-up, backward", "warm-up, optimizer")
    assert 0 < columns["oom_asked_bytes"] < columns["last_peak_allocated_bytes"] <= 200 * MIB
    assert columns["device"] == "NVIDIA RTX A6000, emulated"
    assert columns["status_detail"].startswith(f"out of memory during {columns['ended_in_phase']}, asked for ")


def test_the_cards_own_memory_runs_out_the_same_way(on_card):
    card = replace(A6000, memory_bytes=A6000.context_bytes + 20 * MIB)
    columns = on_card(on_gpu.story_of, replace(CELL, method="full", model="vit_s"), card=card).columns
    assert (columns["status"], columns["ended_in_phase"]) == ("oom", "building")
    assert columns["last_peak_allocated_bytes"] <= 20 * MIB


def test_memory_that_another_process_has_is_not_there(on_card):
    outcome = on_card(on_gpu.out_of_memory_beside_another, 40 * GIB, 10 * GIB)
    assert (outcome["status"], outcome["oom_asked_bytes"]) == ("oom", 10 * GIB)


@pytest.mark.parametrize("phase", ["before", "warm-up, backward"])
def test_another_process_on_the_device_fails_the_cell(on_card, phase):
    story, pid = on_card(on_gpu.story_beside_another, CELL, phase)
    assert story.columns["status"] == "failed"
    assert story.columns["status_detail"].startswith(f"foreign process on the GPU: {pid} (")
    assert story.columns["status_detail"].endswith("end it, or choose another GPU with CUDA_VISIBLE_DEVICES")
    assert ("measured_peak_allocated_bytes" in story.columns) is (phase != "before")


def test_a_kernel_the_card_does_not_have_is_an_outcome(on_card):
    cell = replace(CELL, precision="bf16", attention="flash")
    columns = on_card(on_gpu.story_of, cell, card=GPUS["t4"]).columns
    assert columns["status"] == "unsupported"
    assert columns["status_detail"].startswith("attention flash: No available kernel")


def test_an_operator_the_emulated_device_has_no_answer_to_is_named(on_card):
    outcome = on_card(on_gpu.operator_without_answer)
    assert outcome["status"] == "unsupported"
    assert "the emulated device has no answer to cusparseSpGEMM" in outcome["status_detail"]


@pytest.mark.parametrize(
    ("vram_bytes", "sentence"),
    [
        (A6000.context_bytes, f"vram must be more than the CUDA context's {A6000.context_bytes} bytes"),
        (49 * GIB, f"vram must be at most the device's {A6000.memory_bytes} bytes"),
    ],
)
def test_a_smaller_card_that_cannot_be_had_is_refused(on_card, vram_bytes, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        on_card(on_gpu.story_of, replace(CELL, vram_bytes=vram_bytes))


def test_the_preloading_pass_writes_what_it_writes_elsewhere(on_card):
    cell = replace(CELL, method="fptplus_preloading")
    columns = on_card(on_gpu.story_of, cell).columns
    features = tensors_of(work_on_device(replace(cell, device="cpu"))())
    assert columns["disk_bytes_per_img"] == 4 * sum(tensor.numel() for tensor in features) / cell.batch_size
    assert columns["measured_peak_allocated_bytes"] > 0
