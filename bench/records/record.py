"""The record of one cell, with a field for every column of results.csv; results are read from records only."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin, get_type_hints

from bench.cells.config import CellConfig
from bench.cells.identity import IDENTITY
from bench.cells.step_options import LORA_OPTIONS, STEP_OPTIONS
from bench.timing.estimate import BoundBy
from fptplus import InvalidInput

from .measured_columns import EMULATED, MEASURED_MEMORY, MEASURED_TIME

Status = Literal["ok", "oom", "unsupported", "failed"]
STATUSES: tuple[Status, ...] = ("ok", "oom", "unsupported", "failed")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One cell's outcome. None is "not measured" and an empty CSV field, never 0.

    Use `dataclasses.replace` to fill in columns; it raises TypeError for a name that is not a column.
    """

    method: str
    model: str
    res: int
    batch_size: int
    precision: str
    attention: str
    checkpointing: str
    optimizer: str

    status: Status = "ok"
    """Outcome of the measurement, or of the prediction if nothing was measured."""

    status_detail: str | None = None
    """Why the status is not ok, or why something was left unmeasured."""

    learnable_params: int | None = None
    total_params: int | None = None
    """Learnable and frozen parameters. A frozen large pre-trained model (LPM) that only makes features counts as
    published (methods/backbone.py)."""

    params_pct: float | None = None
    """Learnable parameters in percent of all parameters."""

    forward_macs: int | None = None
    """Multiply-accumulates (MACs) of one image's forward pass through what a training step computes."""

    train_step_macs: int | None = None
    """MACs of a whole training step on the whole batch, backward pass included."""

    backbone_forward_macs: int | None = None
    """MACs of preloading one image, for methods that read preloaded features."""

    predicted_peak_allocated_bytes: int | None = None
    predicted_peak_reserved_bytes: int | None = None
    predicted_process_bytes: int | None = None
    """Predicted blocks in use, segments, and segments with the CUDA context: comparable with the measured ones
    below."""

    predicted_weights_bytes: int | None = None
    predicted_gradients_bytes: int | None = None
    predicted_optimizer_bytes: int | None = None
    predicted_activations_bytes: int | None = None
    predicted_temporary_bytes: int | None = None
    predicted_inputs_bytes: int | None = None
    """The six parts of memory at the moment of the allocated peak, which add up to it."""

    measured_peak_allocated_bytes: int | None = None
    measured_peak_reserved_bytes: int | None = None
    measured_process_bytes: int | None = None
    measured_device_bytes: int | None = None

    step_time_s: float | None = None
    """Median time of a step over the measured steps."""

    step_time_p10_s: float | None = None
    step_time_p90_s: float | None = None
    throughput_img_s: float | None = None

    mean_power_w: float | None = None
    peak_power_w: float | None = None
    idle_power_w: float | None = None
    energy_j_per_img: float | None = None
    power_source: str | None = None

    device: str | None = None
    """Name of the processor measured on, or of the emulated one that the cell ran on; None if it was only predicted."""

    device_memory_bytes: int | None = None
    torch_version: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    started_at: str | None = None
    """Start of the cell in ISO 8601, UTC."""

    # columns beyond those that every reader can rely on
    measured_run_peak_allocated_bytes: int | None = None
    measured_run_peak_reserved_bytes: int | None = None
    """Peaks of the whole run, warm-up included; those above cover the steps after it."""

    measured_context_bytes: int | None = None
    """Process less reserved memory: CUDA context and loaded kernels."""

    measured_fragmentation_bytes: int | None = None
    """Reserved less allocated memory, both at their peaks."""

    process_memory_source: str | None = None
    """How this process was distinguished from others on the device."""

    vram_bytes: int | None = None
    """Memory of the smaller card that was simulated."""

    loader_step_time_s: float | None = None
    loader_throughput_img_s: float | None = None
    """The same as step_time_s and throughput_img_s, with batches from disk."""

    disk_bytes_per_img: float | None = None
    """Size of one image's features in a file, for a preloading pass."""

    derived_training_time_s: float | None = None
    """Training time worked out, not measured: 20 epochs of derived_num_images at step_time_s."""

    derived_num_images: int | None = None
    epochs: int | None = None
    epoch_images: int | None = None
    measured_training_time_s: float | None = None
    """Measured time of the given number of epochs with the given number of images, with batches from disk."""

    gross_energy_j_per_img: float | None = None
    """Energy per image, idle power included; energy_j_per_img is net of it."""

    power_window_s: float | None = None
    power_limit_w: float | None = None
    gpu_temperature_c: int | None = None
    power_quality: str | None = None
    """`good`, or whatever speaks against the power figures."""

    ended_in_phase: str | None = None
    """Phase in which a cell that is not ok ended."""

    oom_asked_bytes: int | None = None
    last_peak_allocated_bytes: int | None = None

    gpu_uuid: str | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    """CUDA version that PyTorch was built with."""

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    """Clocks at the end of the measurement."""

    max_sm_clock_mhz: int | None = None
    ecc_enabled: bool | None = None
    wall_s: float | None = None
    """Wall-clock time of the whole cell in seconds."""

    gpu: str | None = None
    """Name of the GPU that memory is predicted for."""

    num_classes: int | None = None
    seed: int | None = None
    fvcore_forward_macs: int | None = None
    """forward_macs by fvcore's convention: adds normalisations, does not see fused attention."""

    cell_id: str | None = None
    """Name of the record's file."""

    # the training step's options, see CellConfig; records from before there were any have the defaults
    zero_grad: str = "before_forward"
    accumulation_steps: int = 1
    clipping: str = "norm"
    drop_path: float = 0.0
    averaging: str = "none"
    lora_rank: int | None = None
    lora_targets: str | None = None
    """LoRA's rank and targets; None for every other method."""

    alloc_conf: str | None = None
    """Settings of PyTorch's allocator that the cell asked for, or that its measurement found in the environment; None
    for PyTorch's defaults."""

    predicted_by: Literal["emulated", "traced"] | None = None
    """Source of the predicted memory: PyTorch's own code on an emulated CUDA device, or the meta trace."""

    predicted_fits: bool | None = None
    """Whether the predicted step runs in the memory of `gpu`; None if the prediction cannot tell."""

    kernel_launches: int | None = None
    """Number of kernels that one training step launches, counted on the emulated device."""

    host_time_s: float | None = None
    """CPU time for issuing one training step in seconds, measured on the emulated device: no GPU is faster without CUDA
    graphs."""

    bytes_moved: int | None = None
    """Bytes that the operators of one training step read and write, counted."""

    predicted_step_time_s: float | None = None
    predicted_energy_j_per_img: float | None = None
    """Time of a step on `gpu` and energy per image, idle power included, by the model in timing/; never measured."""

    weights: str | None = None
    """Checkpoint file or timm pretrained name that was used; None for random weights."""

    predicted_throughput_img_s: float | None = None
    predicted_mean_power_w: float | None = None
    predicted_peak_power_w: float | None = None
    predicted_bound_by: BoundBy | None = None
    """The model's further answers: throughput with batches on the card, its power, and what sets the pace."""

    arithmetic_intensity: float | None = None
    """Floating-point operations for each byte moved, counted."""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise InvalidInput(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}.")
        measured = [name for name in (*MEASURED_MEMORY, *MEASURED_TIME) if getattr(self, name) is not None]
        if self.is_emulated and measured:
            raise InvalidInput(
                f"a record of {self.device!r} must have nothing measured, it has {', '.join(measured)}; move it away."
            )
        if self.method == "lora" and self.lora_rank is None:  # a record from before there was a choice
            for name in LORA_OPTIONS:
                object.__setattr__(self, name, STEP_OPTIONS[name])

    @property
    def step_time_spread(self) -> float | None:
        """Half of what the middle 80 % of the steps' times span, as a share of their median; None if not timed."""
        if None in (self.step_time_s, self.step_time_p10_s, self.step_time_p90_s):
            return None
        return (self.step_time_p90_s - self.step_time_p10_s) / 2 / self.step_time_s

    @property
    def is_measured(self) -> bool:
        """Whether a device has answered, even if only that it lacks memory; such a record is never lost."""
        return self.device is not None and not self.is_emulated

    @property
    def is_emulated(self) -> bool:
        """Whether the cell ran on an emulated device, where nothing can be measured."""
        return self.device is not None and self.device.endswith(EMULATED)


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Record))
"""Columns of results.csv, in order."""


def _types_of(hint: object) -> set[type]:
    """Return the types of the values that an annotation allows."""
    if get_origin(hint) is Literal:
        return {type(value) for value in get_args(hint)}
    return {hint} if isinstance(hint, type) else set().union(*map(_types_of, get_args(hint)))


_TYPES = {name: _types_of(hint) for name, hint in get_type_hints(Record).items()}
_LARGEST_NUMBER = 2**63


def check_types(columns: Mapping[str, object]) -> None:
    """Refuse values of columns that no record has.

    Raises:
        TypeError: naming the first column whose value is of another type, or no number that fits in 64 bits.
    """
    for name, value in columns.items():
        types = _TYPES[name]
        if type(value) not in types and not (type(value) is int and float in types):
            raise TypeError(f"{name} is {value!r:.40}")
        if isinstance(value, int | float) and not abs(value) < _LARGEST_NUMBER:  # NaN is not
            raise TypeError(f"{name} is {value!s:.40}")


def new_record(cell: CellConfig) -> Record:
    """Return a record with a cell's configuration and nothing else; `device` is not known before the cell has run."""
    configured = {name: getattr(cell, name) for name in IDENTITY if name != "device"}
    configured |= {name: configured[name] or None for name in ("epochs", "epoch_images")}
    return Record(**configured, cell_id=cell.cell_id)
