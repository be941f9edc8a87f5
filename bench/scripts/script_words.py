"""What a run needs, in lines of at most 80 columns."""

from collections import Counter
from collections.abc import Iterator
from textwrap import wrap

from bench.units import MIB

from .script_report import ProcessReport
from .script_run import ScriptRun, in_words

WIDTH = 80

BANNER = "emulated: no kernel runs here, so losses, metrics and times mean nothing; memory is PyTorch's own"


def banner(run_title: str) -> str:
    """Return the lines printed before the script runs."""
    return "\n".join(folded(f"{BANNER} ({run_title})"))


def summary(run: ScriptRun) -> str:
    """Return everything there is to say about one run."""
    return "\n".join(_summary(run))


def _summary(run: ScriptRun) -> Iterator[str]:
    yield f"{run.gpu.title}, {in_words(run.gpu.memory_bytes)}; PyTorch {run.torch.version}"
    if run.signal:
        yield from folded(f"the command was ended by {run.signal}; what follows is known up to then")
    if run.largest is None:
        yield from folded("no process of the command has used the card, or it was killed before its first step")
        return
    if len(run.reports) > 1:
        yield from _ranks(run)
    yield from _process(run.largest, run)


def _ranks(run: ScriptRun) -> Iterator[str]:
    yield "  rank      pid   allocated    reserved"
    for report in run.reports:
        allocated, reserved = (f"{size / MIB:>7,.0f} MiB" for size in _peaks(report))
        yield f"  {report.rank:>4} {report.pid:>8} {allocated} {reserved}"


def _peaks(report: ProcessReport) -> tuple[int, int]:
    return report.peak_allocated_bytes, report.peak_reserved_bytes


def _process(report: ProcessReport, run: ScriptRun) -> Iterator[str]:
    context = run.context
    yield _row("allocated", report.peak_allocated_bytes, "at the peak")
    yield _row("reserved", report.peak_reserved_bytes, f"{100 * report.fragmentation:.0f} % of it cached or fragmented")
    size = f"with a CUDA context of {context.typical_bytes / MIB:,.0f} MiB"
    yield _row("process", report.process_bytes(context), size)
    yield from folded(_conclusion(report, run), indent="  ")
    steps = "1 optimizer step" if report.num_steps == 1 else f"{report.num_steps:,} optimizer steps"
    yield f"  {steps}, {report.kernel_launches:,} kernels launched"
    if report.retries:
        yield f"  times that the allocator emptied its cache to find room: {report.retries}"
    if report.peak_place is not None:
        yield from folded(f"{_of_recorded(report)} {report.peak_place}", indent="  ")
        yield from _parts(report)
    if report.waits_at:
        sentence = "for a while no kernel was launched; what it may have waited for is at"
        yield from folded(f"{sentence} {report.waits_at}", indent="  ")
    if report.unknown_scratch:
        yield from folded(f"not included: scratch memory of {report.unknown_scratch}", indent="  ")
    if report.unanswered:
        yield from folded(f"the emulated device had no answer to {report.unanswered}", indent="  ")


def _conclusion(report: ProcessReport, run: ScriptRun) -> str:
    """Return whether it fits, in words."""
    spare = run.gpu.memory_bytes - report.process_bytes(run.context)
    if run.ran_out_of_memory:
        return f"does not fit: {run.verdict.sentence}"
    if run.verdict.word == "yes":
        return f"fits with {in_words(spare)} to spare"
    if run.verdict.word == "no":
        return f"does not fit: {in_words(-spare)} are lacking"
    return run.verdict.sentence


def _of_recorded(report: ProcessReport) -> str:
    return "peak at" if report.peak_is_recorded else "the recorded steps' peak, which later steps exceed, at"


def _parts(report: ProcessReport) -> Iterator[str]:
    kinds = sorted(((size, kind) for kind, size in report.by_kind.items() if size), reverse=True)
    yield from folded(", ".join(f"{kind} {size / MIB:,.0f} MiB" for size, kind in kinds), indent="  in use there: ")
    yield "  largest tensors there"
    places = [(tensor.num_bytes, tensor.kind, tensor.name or tensor.inner or tensor.line) for tensor in report.largest]
    for (num_bytes, kind, place), count in Counter(places).items():
        times = f"{count} ×" if count > 1 else ""
        yield f"  {times:>5}{num_bytes / MIB:>9,.1f} MiB  {kind}, {place}"[:WIDTH]


def _row(name: str, num_bytes: int, remark: str) -> str:
    return f"  {name:10}{num_bytes / MIB:>10,.0f} MiB  {remark}"


def folded(text: str, indent: str = "") -> list[str]:
    """Return the lines of a text, the first with an indent, the others indented further."""
    return wrap(text, WIDTH, initial_indent=indent, subsequent_indent=" " * (len(indent) + 2), drop_whitespace=True)
