"""`python -m bench doctor`: what can be measured here, what cannot, and how to fix that."""

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil
import pynvml
import torch

from bench.cards.gpus import GPUS, has_kernels, present_gpu
from bench.cards.probe import present_properties
from bench.emulate.build import CannotEmulate, device_libraries
from bench.emulate.device_state import is_emulated
from bench.measure.environment import nvml_facts, provenance
from bench.measure.meters.nvml import NvmlDevice, NvmlSilent, find_device, nvml_session
from bench.report.table_formats import Column, FormatOption, TableView, printing
from bench.units import GIB
from fptplus import InvalidInput, cpu_kernels
from fptplus.build_cache import BuildFailed, find_compiler, run_tool
from fptplus.data.dicom import EXTRA, decodable_encodings

Verdict = Literal["yes", "limited", "no"]


@dataclass(frozen=True)
class Finding:
    """One thing that was examined."""

    what: str
    verdict: Verdict
    detail: str
    """What was found, and also the cure unless the verdict is yes."""


def examine(out: str) -> Iterator[Finding]:
    """Examine everything that a measurement needs.

    Args:
        out: results folder whose free space is checked.
    """
    yield Finding("prediction", "yes", f"Python {platform.python_version()}, PyTorch {torch.__version__}")
    yield from _emulated_device()
    yield _source()
    yield Finding("time on the CPU", "yes", f"{torch.get_num_threads()} threads, {_gib(psutil.virtual_memory().total)}")
    yield _cpu_kernels()
    yield _disk(out)
    yield _submitit()
    yield _dicom()
    try:
        properties = present_properties()
    except InvalidInput as error:
        yield Finding("CUDA", "no", str(error))
        return
    if properties is None:
        yield _no_cuda()
        return
    gpu = present_gpu()
    yield Finding("CUDA", "yes", f"{properties.name}, {_gib(properties.memory_bytes)}, predicted as {gpu.name}")
    if is_emulated():
        yield Finding("time on the GPU, measured memory", "no", "the GPU is emulated; leave the emulated environment")
    else:
        yield Finding("time on the GPU, allocated and reserved memory", "yes", f"CUDA {torch.version.cuda}")
    try:
        with nvml_session():
            yield from _nvml(find_device(os.environ, properties.uuid))
    except NvmlSilent as silent:
        yield Finding("process and device memory, power", "no", str(silent))


def _emulated_device() -> Iterator[Finding]:
    """Report whether PyTorch runs on emulated cards, and on which of the catalogue's."""
    what = "memory by PyTorch itself, on emulated cards"
    try:
        device_libraries()
        compiler = run_tool(find_compiler(), "--version").splitlines()[0]
    except (CannotEmulate, BuildFailed) as error:
        yield Finding(what, "no", str(error))
        return
    yield Finding(what, "yes", f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, compiled by {compiler}")
    architectures = torch.cuda.get_arch_list()  # empty in some versions if there is no GPU
    without = [gpu.name for gpu in GPUS.values() if not has_kernels(gpu, architectures)]
    if architectures and without:
        detail = f"none for {', '.join(without)}: this PyTorch runs on no such card, an older one does"
        yield Finding("kernels for all cards of the catalogue", "limited", detail)


def _nvml(device: NvmlDevice) -> Iterator[Finding]:
    """Report what NVML says of the device."""
    facts = ", ".join(f"{name} {value}" for name, value in nvml_facts(device).items() if value is not None)
    yield Finding("NVML", "yes", f"{device.uuid}: {facts}")
    processes = device.process_bytes
    if processes is None:
        yield Finding("process memory", "limited", "processes are not listed: the device's memory less what was in use")
    elif processes:
        names = ", ".join(map(str, processes))
        detail = f"other processes compute on the GPU ({names}); end them or choose another with CUDA_VISIBLE_DEVICES"
        yield Finding("an undisturbed GPU", "no", detail)
    else:
        yield Finding("an undisturbed GPU", "yes", "no other process computes on it")
    if device.is_mig:
        yield Finding("power of this slice", "limited", "a MIG slice has no meter of its own: the whole GPU's is shown")
    for what, question in (
        ("sampled power", pynvml.nvmlDeviceGetPowerUsage),
        ("energy counter", pynvml.nvmlDeviceGetTotalEnergyConsumption),
    ):
        reason = device.why_not(question)
        yield Finding(what, "yes" if reason is None else "no", reason or "answers")


def _source() -> Finding:
    facts = provenance()
    if facts["git_commit"] is None:
        return Finding("commit in the records", "no", "this is no git checkout, or git is missing; clone the project")
    if facts["git_dirty"]:
        return Finding("commit in the records", "limited", f"{facts['git_commit'][:12]} with changes; commit them")
    return Finding("commit in the records", "yes", facts["git_commit"][:12])


def _disk(out: str) -> Finding:
    try:
        path = Path(out).resolve()
    except ValueError as error:
        return Finding("records and batches on disk", "no", f"{out!r} names no folder ({error}); name another")
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    if free < GIB:
        return Finding("records and batches on disk", "limited", f"{_gib(free)} free under {out}; make room")
    return Finding("records and batches on disk", "yes", f"{_gib(free)} free under {out}")


def _cpu_kernels() -> Finding:
    if cpu_kernels.can_run_on(torch.empty(0)):
        return Finding("FPT and FPT+ at speed on the CPU", "yes", "kernels compiled for it")
    return Finding("FPT and FPT+ at speed on the CPU", "limited", "PyTorch's operators run instead; install g++")


def _submitit() -> Finding:
    if importlib.util.find_spec("submitit") is None:
        return Finding(
            "several GPUs or machines", "no", "submitit is not installed; pip install 'fptplus-bench[slurm]'"
        )
    has_slurm = shutil.which("srun") is not None
    return Finding("several GPUs or machines", "yes", "local" + (" and slurm" if has_slurm else "; no Slurm here"))


def _dicom() -> Finding:
    """Report which encodings of DICOM images can be decoded here."""
    found = decodable_encodings()
    decoded, missing = ([name for name, here in found.items() if here is wanted] for wanted in (True, False))
    if missing:
        return Finding("DICOM images", "limited", f"{', '.join(decoded)}; not {', '.join(missing)}: {EXTRA}")
    return Finding("DICOM images", "yes", ", ".join(decoded))


def _no_cuda() -> Finding:
    if torch.version.cuda is None:
        return Finding("CUDA", "no", "this PyTorch is built without CUDA; install one with, on a machine with a GPU")
    try:
        with nvml_session():
            count = pynvml.nvmlDeviceGetCount()
    except NvmlSilent as silent:
        return Finding("CUDA", "no", f"{silent}; memory is predicted instead")
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = f"CUDA_VISIBLE_DEVICES={mask!r} hides them" if mask is not None else "update the driver"
    return Finding("CUDA", "no", f"the driver has {count} GPUs, PyTorch can use none; {hidden}")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"


@dataclass(frozen=True, kw_only=True)
class DoctorConfig(FormatOption):
    """Say what can be measured on this machine, what cannot, and how to fix that."""

    out: str = "results"
    """Results folder whose free space to check."""


def main(config: DoctorConfig) -> int:
    """Print the table of findings."""
    findings = list(examine(config.out))
    view = TableView(
        columns=(
            Column(heading="What", show=lambda finding: finding.what),
            Column(heading="Here", show=lambda finding: finding.verdict, styles=_STYLES),
            Column(heading="Why", show=lambda finding: finding.detail),
        ),
        items=findings,
    )
    with printing(config.format) as printer:
        printer.show(map(asdict, findings), view)
    return 0


_STYLES = {"yes": "green", "limited": "yellow", "no": "red"}
