"""Watch the memory of a training script from inside its process, without changing it or importing our packages.

    PyTorch's hooks      an optimizer's step or a backward pass begins or ends         -> phases, by time
    module_places.py     a module or a node of the graph begins or ends                -> modules, by block
    allocator's history  each block given and taken back, with the lines that asked    -> what is in use at the peak
    the optimizer        parameters, gradients, state; every module: buffers           -> the kind of each block

The history is kept for the first steps only (EMULATED_RECORD_STEPS); all other steps are known by the allocator's own
counters. Each process has its own report, a JSON file that is written whole after each recorded step and at its end.
"""

import atexit
import bisect
import contextlib
import functools
import gc
import json
import os
import re
import sys
import sysconfig
import threading
import time

from .module_places import ModulePlaces

MOST_ENTRIES = 5_000_000
"""Largest number of entries in the allocator's history."""

QUIET_S = float(os.environ.get("EMULATED_QUIET_S", "60"))
"""Seconds without a kernel launch after which the script may be waiting for a value that no kernel writes."""

WRITE_EVERY_S = 1.0
"""Seconds after which a step writes the report again once nothing is recorded any more."""

LARGEST = 10
"""Number of tensors that are listed."""

MOST_GROUPS = 32
"""Largest number of groups of modules that are told apart in the timeline."""

NO_MODULE, OTHER_MODULES = "outside modules", "other modules"

TIMELINE_POINTS = 2000

KINDS = ("weights", "gradients", "optimizer", "buffers", "activations", "temporary", "other")


def start(torch):
    """Watch a process that has just imported PyTorch."""
    names = os.environ.get("EMULATED_CHANGES", "")
    changes = {}
    if names:
        from . import script_changes

        changes = script_changes.start(torch, names.split(","))
    watch = Watch(torch, os.environ["EMULATED_REPORTS"], changes)
    watch.watch_compiling()
    torch.cuda._lazy_call(watch.cuda_begins)


class Watch:
    """Watch of one process.

    Args:
        torch: the PyTorch module.
        folder: folder for its report.
        changes: changes to the script that are being tried (script_changes.py), by name.
    """

    def __init__(self, torch, folder, changes):
        self.torch, self.folder, self.pid, self.changes = torch, folder, os.getpid(), changes
        self.places = ModulePlaces(torch, caller, lambda: roots(torch, gc.get_objects()))
        self.record_steps = int(os.environ.get("EMULATED_RECORD_STEPS", "3"))
        self.stop_after = int(os.environ.get("EMULATED_STOP_AFTER_STEPS", "0"))
        self.num_steps = 0
        self.steps_of = {}
        """Number of steps done, by optimizer."""
        self.phases = [(0, 0, "setup", None)]
        """Phases: beginning (µs), step (from 1), name, and the user's line that began it."""
        self.known = []
        """Blocks seen in use: (time in µs, {address: (kind, name)})."""
        self.out_of_memory = []
        self.peak_by_step = []
        self.is_recording = False
        self.recorded = None
        self.ended = "running"
        self.written_s = 0.0

    def cuda_begins(self):
        """Note that CUDA has started in this process, which may be a fork of the one that imported PyTorch."""
        torch, self.pid = self.torch, os.getpid()
        if hasattr(torch._C, "_cuda_attach_out_of_memory_observer"):
            torch._C._cuda_attach_out_of_memory_observer(self.memory_runs_out)
        optimizers = sys.modules["torch.optim.optimizer"]  # hidden in its package by a class of the same name
        optimizers.register_optimizer_step_pre_hook(self.step_begins)
        optimizers.register_optimizer_step_post_hook(self.step_ends)
        self._watch_backward()
        self._watch_resets()
        if not self.compiles:
            self._first_call = torch.nn.modules.module.register_module_forward_pre_hook(self.first_call)
        self._record()
        atexit.register(self.process_ends)
        self._watch_exit()
        self.excepthook, sys.excepthook = sys.excepthook, self.script_fails
        threading.Thread(target=self._notice_waiting, name="emulated-watch", daemon=True).start()

    def _record(self):
        if self.record_steps == 0:
            return
        memory = self.torch.cuda.memory
        try:
            memory._record_memory_history("all", context="alloc", stacks="python", max_entries=MOST_ENTRIES)
            self.is_recording = True
            if not self.compiles:
                self.places.start()
        except TypeError:  # before PyTorch 2.1: counters only
            pass

    def _watch_backward(self):
        autograd = self.torch.autograd
        autograd.backward, autograd.grad = self._as_backward(autograd.backward), self._as_backward(autograd.grad)

    def _as_backward(self, function):
        @functools.wraps(function)
        def watched(*arguments, **options):
            around = self.phase
            self._phase("backward", caller(sys._getframe(1)))
            try:
                with self.places.backward(arguments[0] if arguments else next(iter(options.values()), ())):
                    return function(*arguments, **options)
            finally:
                self._phase(around if around == "backward" else "forward")  # one may run inside another

        return watched

    def _watch_exit(self):
        """Write the report also where a process ends at once, as those that multiprocessing forks do."""
        end = os._exit

        def watched(status):
            with contextlib.suppress(Exception):
                self.process_ends()
            end(status)

        os._exit = watched

    def watch_compiling(self):
        """Hook no module once something is compiled: a compiled module warns of hooks, and runs without its parts."""
        compile_it = self.torch.compile

        @functools.wraps(compile_it)
        def watched(*arguments, **options):
            self.compiles = True
            self.places.stop()
            if self._first_call is not None:
                self._first_call.remove()
            return compile_it(*arguments, **options)

        self.torch.compile = watched

    compiles, _first_call = False, None

    def _watch_resets(self):
        """Keep the peaks that the script sets back to what is in use."""
        reset = self.torch._C._cuda_resetPeakMemoryStats

        def watched(device):
            self.peak_before = self._counters()
            return reset(device)

        self.torch._C._cuda_resetPeakMemoryStats = watched

    peak_before = {"allocated_bytes": 0, "reserved_bytes": 0}

    def _phase(self, phase, line=None):
        if self.is_recording:
            self.phases.append((time.time_ns() // 1000, self.num_steps + 1, phase, line))
        self.phase = phase

    phase = "setup"

    def first_call(self, _module, _inputs):
        """Note that a module is called for the first time: what came before does not belong to the first step."""
        self._first_call.remove()
        if self.phase == "setup":
            self._phase("forward")

    def step_begins(self, optimizer, arguments, options):
        """Note that an optimizer is about to step: weights, gradients and what is left of older state are in use.

        Return its arguments with a closure, such as Lightning's, that notes when the passes inside it are over.
        """
        if os.getpid() != self.pid:
            return None
        self._note_known(optimizer)
        line = caller(sys._getframe(1))
        closure = arguments[1] if len(arguments) > 1 else options.get("closure")
        if not callable(closure):
            self._phase("optimizer", line)
            return None
        if len(arguments) > 1:
            arguments = (arguments[0], self._passes(closure, optimizer, line), *arguments[2:])
        else:
            options = {**options, "closure": self._passes(closure, optimizer, line)}
        return arguments, options

    def _passes(self, closure, optimizer, line):
        @functools.wraps(closure)
        def watched(*arguments, **options):
            self._phase("forward")
            try:
                return closure(*arguments, **options)
            finally:
                self._note_known(optimizer)
                self._phase("optimizer", line)

        return watched

    def step_ends(self, optimizer, _arguments, _options):
        """Note that an optimizer has stepped."""
        if os.getpid() != self.pid:
            return
        self._note_known(optimizer)
        number = self.steps_of[id(optimizer)] = self.steps_of.get(id(optimizer), 0) + 1
        self.num_steps = max(self.num_steps, number)
        self.peak_by_step.append(self._counters()["allocated_bytes"])
        self._phase("forward")
        if self.is_recording:
            if self.num_steps >= self.record_steps:
                self._stop_recording()
            self.write()
        elif time.monotonic() - self.written_s > WRITE_EVERY_S:  # it may be killed at any time
            self.write()
        if self.stop_after and min(self.steps_of.values()) >= self.stop_after:
            self.ended = "stopped"
            raise SystemExit(0)

    def _note_known(self, optimizer):
        """Note what the blocks in use are for, by their addresses; if an optimizer is given, its blocks too."""
        if not self.is_recording:
            return
        names, known = {}, {}
        for module in roots(self.torch, gc.get_objects()):
            for name, parameter in module.named_parameters():
                names.setdefault(id(parameter), name)
                note(known, parameter, "weights", name)
                note(known, parameter.grad, "gradients", name)
            for name, buffer in module.named_buffers():
                note(known, buffer, "buffers", name)
        for group in optimizer.param_groups if optimizer is not None else ():
            for parameter in group["params"]:
                name = names.get(id(parameter), "")
                note(known, parameter, "weights", name)
                note(known, parameter.grad, "gradients", name)
                for key, value in optimizer.state.get(parameter, {}).items():
                    note(known, value, "optimizer", f"{name} {key}".strip())
        self.known.append((time.time_ns() // 1000, known))

    def memory_runs_out(self, device, wanted_bytes, _device_total, _device_free):
        """Note that the allocator is about to raise; it has retried after freeing its cache."""
        self._note_known(None)
        self.out_of_memory.append(
            {
                "device": device,
                "wanted_bytes": wanted_bytes,
                "step": self.num_steps + 1,
                "phase": self.phase,
                "line": caller(sys._getframe(1)),
            }
        )

    def script_fails(self, kind, error, traceback):
        """Note that an error was not caught."""
        self.ended = f"{kind.__name__}: {error}"
        self.excepthook(kind, error, traceback)

    def process_ends(self):
        """Note that Python is about to end this process."""
        if os.getpid() != self.pid:
            return
        if self.ended == "running":
            self.ended = "ended"
        if self.is_recording:
            self._stop_recording()
        self.write()
        if self.ended.startswith("KeyboardInterrupt"):
            end_by_interrupt()

    def _stop_recording(self):
        memory = self.torch.cuda.memory
        self.is_recording = False
        self.places.stop()
        snapshot = memory._snapshot()
        memory._record_memory_history(None)
        self._write_snapshot(snapshot)
        device = self.torch.cuda.current_device()
        entries = snapshot["device_traces"][device]
        if entries and "time_us" not in entries[0]:  # before PyTorch 2.2: counters only
            return
        num_blocks = sum(entry["action"] == "alloc" for entry in entries)
        blocks = Blocks(entries, self.phases, self.known, self.places.by_block(device, num_blocks))
        so_far = {"steps": self.num_steps, "allocated_bytes": self._counters()["allocated_bytes"]}
        self.recorded = so_far | blocks.summary()
        self.known.clear()

    def _write_snapshot(self, snapshot):
        """Write the snapshot for PyTorch's memory viewer (pytorch.org/memory_viz)."""
        import pickle

        with open(os.path.join(self.folder, f"{self.pid}.pickle"), "wb") as file:
            pickle.dump(snapshot, file)

    def _counters(self):
        """Return the peaks since the process began, over all devices together, and the current device's number."""
        stats = self.torch.cuda.memory_stats()
        names = ("allocated", "reserved")
        peak = {
            f"{name}_bytes": max(stats[f"{name}_bytes.all.peak"], self.peak_before[f"{name}_bytes"]) for name in names
        }
        return peak | {"retries": stats.get("num_alloc_retries", 0)}

    def write(self):
        """Write the report as far as it is known."""
        torch = self.torch
        device = torch.cuda.current_device()
        report = {
            "pid": self.pid,
            "rank": int(os.environ.get("RANK", "0")),
            "command": sys.argv,
            "torch": torch.__version__,
            "device": device,
            "gpu": torch.cuda.get_device_name(device),
            "capacity_bytes": torch.cuda.get_device_properties(device).total_memory,
            "num_steps": self.num_steps,
            "ended": self.ended,
            "peak": self._counters(),
            "peak_by_step": self.peak_by_step,
            "recorded": self.recorded,
            "out_of_memory": self.out_of_memory,
            "checkpoints": self.places.recomputes,
            "changes": {name: [change.done, change.reason] for name, change in self.changes.items()},
            "waits_at": self.waits_at,
            "unanswered": device_text("emulated_unanswered"),
            "unknown_scratch": device_text("emulated_unknown_workspaces"),
            "kernel_launches": launches(),
        }
        self.written_s = time.monotonic()
        path = os.path.join(self.folder, f"{self.pid}.json")
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(report, file)
        os.replace(path + ".new", path)

    def _notice_waiting(self):
        """Say where the script is if it launches no kernel for long: it may wait for a value that no kernel writes."""
        main, last, since = threading.main_thread().ident, launches(), time.monotonic()
        while True:
            time.sleep(QUIET_S / 6)
            if self.ended != "running":
                return
            if (now := launches()) != last or is_compiling():
                last, since = now, time.monotonic()
            elif time.monotonic() - since > QUIET_S:
                frame = sys._current_frames().get(main)
                self.waits_at = caller(frame) if frame is not None else "an unknown line"
                who = f"rank {os.environ['RANK']}" if "RANK" in os.environ else f"process {self.pid}"
                print(
                    f"emulated: no kernel has been launched for {QUIET_S:.0f} s; {who} is at {self.waits_at}. "
                    "Kernels do not run here: a loop that waits for a value that one writes never ends.",
                    file=sys.__stderr__,
                    flush=True,
                )
                self.write()
                since = time.monotonic()

    waits_at = ""


class Blocks:
    """The allocator's history of one device.

    Args:
        entries: entries of the history.
        phases, known: see Watch.
        place_of: returns the place of the n-th block that was given.
    """

    def __init__(self, entries, phases, known, place_of):
        self.phases, self.times = phases, [phase[0] for phase in phases]
        self.blocks, self.changes = [], []
        alive = {}
        for entry in entries:
            if entry["action"] == "alloc":
                alive[entry["addr"]] = len(self.blocks)
                self.changes.append((len(self.blocks), True))
                self.blocks.append(WatchedBlock(entry, place_of(len(self.blocks))))
            elif entry["action"] == "free_requested" and entry["addr"] in alive:
                number = alive.pop(entry["addr"])
                self.blocks[number].freed_us = entry["time_us"]
                self.changes.append((number, False))
        self._tell_kinds(known)

    def _tell_kinds(self, known):
        by_address = {}
        for block in self.blocks:
            by_address.setdefault(block.address, []).append(block)
        for time_us, kinds in known:
            for address, (kind, name) in kinds.items():
                for block in by_address.get(address, ()):
                    if block.made_us <= time_us < block.freed_us and not block.kind:
                        block.belongs(kind, name)
        for block in self.blocks:
            if not block.kind:
                block.kind = self._kind_by_time(block)

    def _kind_by_time(self, block):
        phase, until = self.phase_at(block.made_us), self.phase_at(block.freed_us)
        if phase[2] == "forward" and (until[1:3] != phase[1:3] or block.freed_us == float("inf")):
            return "activations"
        return "other" if phase[2] == "setup" else "temporary"

    def phase_at(self, time_us):
        """Return the phase at a moment."""
        return self.phases[bisect.bisect_right(self.times, time_us) - 1]

    def summary(self):
        """Return where the peak is, what is in use there, and the sizes of each kind over time."""
        peak_at, peak, series, modules = self._replay()
        if peak_at is None:
            return {"peak": None}
        number, alive = peak_at
        block = self.blocks[number]
        _, step, phase, line = self.phase_at(block.made_us)
        by_kind = dict.fromkeys(KINDS, 0)
        by_module = {}
        for other in map(self.blocks.__getitem__, alive):
            by_kind[other.kind] += other.num_bytes
            by_module[other.module or NO_MODULE] = by_module.get(other.module or NO_MODULE, 0) + other.num_bytes
        largest = sorted((self.blocks[other] for other in alive), key=lambda block: -block.num_bytes)[:LARGEST]
        return {
            "peak": {
                "num_bytes": peak,
                "step": step,
                "phase": phase,
                "line": block.line or line or "",
                "inner": block.inner,
                "module": block.module,
                "by_kind": by_kind,
                "by_module": dict(sorted(by_module.items(), key=lambda item: -item[1])),
                "largest": [
                    {
                        "num_bytes": one.num_bytes,
                        "kind": one.kind,
                        "name": one.name,
                        "line": one.line or self.phase_at(one.made_us)[3] or "",
                        "inner": one.inner,
                        "module": one.module,
                        "phase": self.phase_at(one.made_us)[2],
                    }
                    for one in largest
                ],
            },
            "timeline": series,
            "timeline_modules": modules,
            "phases": [list(phase[:3]) for phase in self.phases],
        }

    def _replay(self):
        """Return the change that makes the peak with the blocks in use there, its bytes, and the sizes over time.

        The sizes over time are those of each kind, and those of each group of modules.
        """
        total = peak = 0
        peak_at = -1
        for position, (number, is_given) in enumerate(self.changes):
            total += self.blocks[number].num_bytes if is_given else -self.blocks[number].num_bytes
            if total > peak:
                peak, peak_at = total, position
        if peak_at < 0:
            return None, 0, [], {}
        groups = self._groups(peak_at)
        alive, sizes, series = set(), dict.fromkeys(KINDS, 0), []
        by_group, group_series = dict.fromkeys(dict.fromkeys(groups.values()), 0), []
        every = max(1, len(self.changes) // TIMELINE_POINTS)
        found = None
        for position, (number, is_given) in enumerate(self.changes):
            block = self.blocks[number]
            (alive.add if is_given else alive.discard)(number)
            change = block.num_bytes if is_given else -block.num_bytes
            sizes[block.kind] += change
            by_group[groups[block.module]] += change
            if position == peak_at:
                found = (number, set(alive))
            if position % every == 0 or position == peak_at:
                series.append([block.made_us if is_given else block.freed_us, *sizes.values()])
                group_series.append(list(by_group.values()))
        return found, peak, series, {"names": list(by_group), "rows": group_series}

    def _groups(self, peak_at):
        """Return the group that each module belongs to: the largest at the peak by name, the others together."""
        at_peak = {}
        for number, is_given in self.changes[: peak_at + 1]:
            block = self.blocks[number]
            group = group_of(block.module)
            at_peak[group] = at_peak.get(group, 0) + (block.num_bytes if is_given else -block.num_bytes)
        largest = sorted(at_peak, key=at_peak.get, reverse=True)
        shown = set(largest if len(largest) <= MOST_GROUPS else largest[: MOST_GROUPS - 1])
        groups = {module: group_of(module) for module in dict.fromkeys(block.module for block in self.blocks)}
        return {module: group if group in shown else OTHER_MODULES for module, group in groups.items()}


class WatchedBlock:
    """A block of memory from when it was given to when it was taken back."""

    __slots__ = ("address", "freed_us", "inner", "kind", "line", "made_us", "module", "name", "num_bytes")

    def __init__(self, entry, place):
        self.address, self.made_us, self.freed_us = entry["addr"], entry["time_us"], float("inf")
        self.num_bytes = (entry["size"] + 511) // 512 * 512
        self.kind = self.name = ""
        frames = [frame for frame in entry.get("frames", ()) if not is_watch(frame["filename"])]
        own = next((frame for frame in frames if not is_library(frame["filename"])), None)
        self.line = in_words(own) if own else place.line
        self.module = place.module
        outside = next((frame for frame in frames if not is_torch(frame["filename"])), None)
        self.inner = in_words(outside) if outside and outside is not own else ""

    def belongs(self, kind, name):
        """Note what it is for: a parameter, its gradient or its state belongs to the module of the parameter."""
        self.kind, self.name = kind, name
        if name:
            self.module = name.split(" ")[0].rpartition(".")[0]


def group_of(module):
    """Return the part of a model that a module belongs to: blocks.3 for blocks.3.attn.qkv, head for head."""
    found = re.match(r"(?:[^.]*\.)*?[^.]*\d(?=\.|$)", module)
    return found[0] if found else module.partition(".")[0] or NO_MODULE


def note(known, tensor, kind, name):
    """Remember what the block of a tensor on a device is for; the first kind noted stays."""
    tensor = getattr(tensor, "_local_tensor", tensor)  # for a DTensor
    try:
        if tensor is not None and tensor.is_cuda:
            known.setdefault(tensor.untyped_storage().data_ptr(), (kind, name))
    except (AttributeError, RuntimeError):
        pass  # not a tensor, or one without a storage


def roots(torch, objects):
    """Return the modules that are not part of another one."""
    modules = [one for one in objects if issubclass(type(one), torch.nn.Module)]  # isinstance would query the object
    inner = {id(child) for module in modules for child in module._modules.values()}
    return [module for module in modules if id(module) not in inner]


_HERE = os.path.dirname(__file__)


def _folder():
    """Return the working directory as the script imports PyTorch; it may leave it later, or even remove it."""
    try:
        return os.path.join(os.getcwd(), "")
    except FileNotFoundError:
        return os.sep


_FOLDER = _folder()
_LIBRARIES = tuple(
    os.path.realpath(path) + os.sep
    for path in {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    if path
)


@functools.cache
def is_library(path):
    """Whether a file belongs to the standard library or an installed package, not to the user."""
    return os.path.realpath(path).startswith(_LIBRARIES) or "site-packages" in path or path.startswith("<")


def is_torch(path):
    """Whether a file is PyTorch's, or Python's own."""
    return (f"{os.sep}torch{os.sep}" in path and is_library(path)) or path.startswith("<")


def is_watch(path):
    """Whether a file is one of those that watch."""
    return os.path.dirname(path) == _HERE


def in_words(frame):
    """Return a line of the history, as train.py:12 (main)."""
    return f"{shortened(frame['filename'])}:{frame['line']} ({frame['name']})"


def shortened(path):
    """Return a path relative to its package or the working directory; for other files, just the file name."""
    for folder in (*_LIBRARIES, _FOLDER):
        if path.startswith(folder):
            return path[len(folder) :].removeprefix("site-packages" + os.sep)
    return os.path.basename(path)


def caller(frame):
    """Return the user's line that a frame was called from; the innermost line if all belong to libraries."""
    first = frame
    while frame is not None:
        path = frame.f_code.co_filename
        if not is_library(path) and not is_watch(path):
            return f"{shortened(path)}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    return f"{shortened(first.f_code.co_filename)}:{first.f_lineno} ({first.f_code.co_name})"


def end_by_interrupt():
    """Let Python end by SIGINT after an interrupt that nobody caught: it forgets that when PyTorch runs Python code."""
    import ctypes

    sys.excepthook = lambda *_: None
    ctypes.pythonapi.PyRun_SimpleString(b"raise KeyboardInterrupt")


def launches():
    """Return the number of kernels launched in this process."""
    import ctypes

    count = ctypes.CDLL(None).emulated_launches
    count.restype = ctypes.c_ulonglong
    return count()


def device_text(function):
    """Return what a function of the emulated device says."""
    import ctypes

    ask = getattr(ctypes.CDLL(None), function)
    ask.restype = ctypes.c_char_p
    return ask().decode()


def is_compiling():
    """Whether a thread is compiling (torch.compile), which may launch no kernel for minutes."""
    return any(
        _COMPILER in frame.f_code.co_filename or frame.f_code.co_filename.endswith(_TRACER)
        for first in sys._current_frames().values()
        for frame in _stack(first)
    )


_COMPILER, _TRACER = os.path.join("torch", "_inductor", ""), os.path.join("torch", "_dynamo", "convert_frame.py")


def _stack(frame):
    while frame is not None:
        yield frame
        frame = frame.f_back
