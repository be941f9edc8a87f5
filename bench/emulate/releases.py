"""Check another release of PyTorch on the emulated device: `python -m bench.emulate.releases PYTHON ...`.

Each Python runs a small training (smoke.py) on several cards; the results are compared with arithmetic.
"""

import json
import subprocess
import sys
from pathlib import Path

from bench.cards.gpus import GPUS
from bench.units import GIB, MIB

from .launch import environment

CARDS = ("t4", "a6000", "h100", "rtx5090")
"""One card of each generation that selects different kernels."""

SCRIPT = Path(__file__).with_name("smoke.py")


def check_release(python: Path, card: str) -> dict[str, str | int | float]:
    """Return the results of the small training with a Python's PyTorch on a card.

    Raises:
        RuntimeError: if it fails or disagrees with arithmetic.
    """
    torch_folder = next(python.parents[1].glob("lib/python3*/site-packages/torch"))
    result = subprocess.run(
        [python, SCRIPT], env=environment(GPUS[card], torch_folder=torch_folder), capture_output=True, text=True
    )
    if result.returncode:
        raise RuntimeError(f"{card}: {result.stderr.strip().splitlines()[-1]}")
    found = json.loads(result.stdout.splitlines()[-1])
    capacity = f"{GPUS[card].memory_bytes / GIB:.2f} GiB"
    if found["weights_bytes"] != found["weights_bytes_by_arithmetic"]:
        raise RuntimeError(f"{card}: weights take {found['weights_bytes']}, not {found['weights_bytes_by_arithmetic']}")
    if found["peak_allocated_bytes"] < 4 * found["weights_bytes"]:
        raise RuntimeError(f"{card}: weights, gradients and two states of AdamW must have been there at once")
    if capacity not in found["out_of_memory"]:
        raise RuntimeError(f"{card}: out of memory must name the capacity {capacity}, got {found['out_of_memory']!r}")
    return found


def main(pythons: list[str]) -> None:
    """Print a line for each Python and card."""
    for python in pythons:
        for card in CARDS:
            found = check_release(Path(python), card)
            sizes = (f"{found[f'peak_{name}_bytes'] / MIB:.1f} MiB {name}" for name in ("allocated", "reserved"))
            print(f"PyTorch {found['torch']}, CUDA {found['cuda']}, {found['card']}: {', '.join(sizes)}")


if __name__ == "__main__":
    main(sys.argv[1:])
