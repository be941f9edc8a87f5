"""Sessions of the project; `nox -l` lists them. All share one environment, since PyTorch alone is several GB."""

import hashlib
import os
import shlex
import shutil
import sys
from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
ENVIRONMENT = ROOT / ".nox" / "environment"
OLDER_TORCH = ("2.9.1", "2.11.0")
"""Releases that the emulated device is tried with; the first is built for CUDA 12."""

EXAMPLE = (
    "synthesize --out example/images --images-per-class 200",
    "pretrain --out example/lpm.safetensors",
    "preload --data example/images --model test_vit3 --weights example/lpm.safetensors --out example/store",
    "train --store example/store --batch-size 8 --repeats 3 --out example/fptplus",
    "train --store example/store --batch-size 8 --repeats 3 --method side_only --model test_vit3 --res 128 "
    "--out example/side",
    "evaluate --store example/store --checkpoint example/fptplus/lr0.001-wd0.1-seed0/best.safetensors",
    "visualize --image example/images/test/microaneurysms/microaneurysms_00199.png "
    "--checkpoint example/fptplus/lr0.001-wd0.1-seed0/best.safetensors --weights example/lpm.safetensors "
    "--out example/figures",
)
"""Commands of `python -m fptplus`, as docs/training.md shows them; a test holds both together."""

NUM_WORKERS = min(os.cpu_count() or 1, 4)
"""Processes that share the test files out among themselves; each takes up to 2 GB of memory."""

PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@nox.session(default=False)
def environment(session: nox.Session) -> None:
    """Install the project and all that it needs; nothing happens where that is done already, or with --no-venv."""
    if session.venv_backend == "none":
        return
    stamp = ENVIRONMENT / "installed"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        session.install("--editable", ".[test]")
        stamp.write_text(wanted)


def _run(session: nox.Session, *arguments: str, **variables: str) -> None:
    """Run Python in the shared environment, or in this one where there is none (nox --no-venv)."""
    python = str(PYTHON) if PYTHON.exists() else sys.executable
    session.run(python, *arguments, external=True, env=variables)


@nox.session(venv_backend="none", requires=["environment"])
def tests(session: nox.Session) -> None:
    """Run the test suite and the linter; arguments go to pytest."""
    _run(session, "-m", "ruff", "check", ".")
    _run(session, "-m", "ruff", "format", "--check", ".")
    shared_out = ("--numprocesses", str(NUM_WORKERS), "--dist", "loadfile", "--no-loadscope-reorder")
    threads = str(max(1, (os.cpu_count() or 1) // NUM_WORKERS))  # more would wait for each other, and busily
    _run(session, "-m", "pytest", *shared_out, *session.posargs, OMP_NUM_THREADS=threads)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def bench(session: nox.Session) -> None:
    """Predict, and measure where there is a GPU: nox -s bench -- --model vit_l --res 640."""
    _run(session, "-m", "bench", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def advise(session: nox.Session) -> None:
    """Which methods fit a GPU, and how large they could go: nox -s advise -- --gpu rtx3090 --res 1024."""
    _run(session, "-m", "bench", "advise", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def why(session: nox.Session) -> None:
    """Draw where the memory goes: nox -s why -- --method full --method lora."""
    _run(session, "-m", "bench", "why", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def validate(session: nox.Session) -> None:
    """Hold predictions against measurements on this machine's GPU."""
    _run(session, "-m", "bench", "validate", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def fptplus(session: nox.Session) -> None:
    """FPT+ on real images: nox -s fptplus -- preload --data eyes --out store; then train, evaluate, visualize."""
    _run(session, "-m", "fptplus", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def example(session: nox.Session) -> None:
    """Run the example of docs/training.md, a task where resolution matters, into example/."""
    for command in EXAMPLE:
        _run(session, "-m", "fptplus", *shlex.split(command))


@nox.session(venv_backend="none", requires=["environment"], default=False)
def study(session: nox.Session) -> None:
    """FPT+ against its side network alone, in study/; the table and figures go into results/training."""
    _run(session, "-m", "fptplus", "study", "--out", "study", *session.posargs)
    results, figures = ROOT / "results" / "training", ROOT / "study" / "figures"
    results.mkdir(exist_ok=True)
    shutil.copy(ROOT / "study" / "study.csv", results / "fundus.csv")
    shutil.copy(figures / "attention_on_prompts.svg", results / "fig6_attention_on_prompts.svg")
    for path in figures.glob("tokens_*.png"):
        shutil.copy(path, results / f"fig9_{path.name}")


@nox.session(venv_backend="none", requires=["environment"], default=False)
def emulate(session: nox.Session) -> None:
    """Will a training script fit? nox -s emulate -- --gpu rtx4090 -- python train.py --epochs 1"""
    _run(session, "-m", "bench", "emulate", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def plan(session: nox.Session) -> None:
    """What a sweep would run, what would not fit, how long it takes: nox -s plan -- --model vit_l --res 640."""
    _run(session, "-m", "bench", "plan", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def compare(session: nox.Session) -> None:
    """What has changed between two results folders: nox -s compare -- results/before results/after."""
    _run(session, "-m", "bench", "compare", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def doctor(session: nox.Session) -> None:
    """What can be measured on this machine and what not, with the cure."""
    _run(session, "-m", "bench", "doctor", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def h200(session: nox.Session) -> None:
    """Measure the paper's efficiency tables on an H200 into results/h200, 9 minutes a call; call again to go on."""
    _run(session, "-m", "bench", "campaign", "--limit-s", "540", "--out", "results/h200", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def published(session: nox.Session) -> None:
    """Hold 66 published memory measurements against their scripts on emulated cards; writes results/published."""
    _run(session, "-m", "bench", "published", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def timing(session: nox.Session) -> None:
    """Hold 97 published throughputs, and the paper's Table II, against predictions; writes results/published."""
    _run(session, "-m", "bench", "timing", *session.posargs)


def _other_torch(session: nox.Session, name: str, python: str, *packages: str) -> str:
    """Python of an environment with another PyTorch, several GB; installed once."""
    folder = ROOT / ".nox" / name
    if not (folder / "installed").exists():
        session.run(python, "-m", "venv", "--clear", str(folder), external=True)
        session.run(str(folder / "bin" / "pip"), "install", "--quiet", *packages, external=True)
        (folder / "installed").touch()
    return str(folder / "bin" / "python")


@nox.session(venv_backend="none", requires=["environment"], default=False)
def torch_releases(session: nox.Session) -> None:
    """Try the emulated device with older PyTorch: nox -s torch_releases, or -- 2.9.1 for one release."""
    for version in session.posargs or OLDER_TORCH:
        python = _other_torch(session, f"torch-{version}", sys.executable, f"torch=={version}", "numpy")
        _run(session, "-m", "bench.emulate.releases", python)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def paper_stack(session: nox.Session) -> None:
    """FPT and FPT+ on the paper's PyTorch 2.0.0, emulated, next to the print; needs Python 3.11."""
    python = _other_torch(session, "paper_stack", "python3.11", "torch==2.0.0", "numpy<2", "lazy_loader")
    _run(session, "-m", "bench.paper.stack", "--python", python, *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def reproduce(session: nox.Session) -> None:
    """Make the paper's tables and figures, the findings and results/report.html from the records."""
    _run(session, "-m", "bench", "reproduce", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"], default=False)
def verify(session: nox.Session) -> None:
    """Hold every number that the paper prints against ours."""
    _run(session, "-m", "bench", "verify", *session.posargs)
