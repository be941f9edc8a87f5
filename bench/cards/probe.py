"""Ask for the CUDA device's properties in a short-lived process: `python -m bench.cards.probe`.

Asking creates a CUDA context, which takes hundreds of MiB of the device for as long as the process lives. A process
that only plans and predicts therefore has another process ask.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from fptplus.errors import InvalidInput

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Properties:
    """Properties of the CUDA device that PyTorch calls 0."""

    name: str
    uuid: str
    memory_bytes: int
    compute_capability: tuple[int, int]
    num_sms: int
    max_threads_per_sm: int


@cache
def present_properties() -> Properties | None:
    """Return the properties of this machine's CUDA device, or None, without creating a context in this process.

    Raises:
        InvalidInput: if PyTorch sees a device that does not answer.
    """
    import torch  # the catalogue is read without it

    if not torch.cuda.is_available():
        return None
    if torch.cuda.is_initialized():
        return ask()
    command = [sys.executable, "-m", "bench.cards.probe"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        raise InvalidInput(
            f"the CUDA device must answer, it says {reason!r}; see nvidia-smi, or hide it with CUDA_VISIBLE_DEVICES=''."
        )
    answer = json.loads(result.stdout)
    return Properties(**answer | {"compute_capability": tuple(answer["compute_capability"])})


def ask() -> Properties:
    """Ask CUDA in this process."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    return Properties(
        name=properties.name,
        uuid=str(properties.uuid),
        memory_bytes=properties.total_memory,
        compute_capability=(properties.major, properties.minor),
        num_sms=properties.multi_processor_count,
        max_threads_per_sm=properties.max_threads_per_multi_processor,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(ask())))
