"""Run the commands that measure, one after another, on the machine of an emulated GPU; print their output as JSON.

python commands_on_emulated_gpu.py FOLDER
"""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from bench.__main__ import main
from bench.cells.config import CellConfig
from bench.cells.grid import preloading_of
from bench.commands import campaign, validate
from bench.emulate.device_state import is_emulated

CELL = CellConfig(method="fptplus", model="test_vit", res=64, batch_size=2, device="cuda")


def call(*arguments: str) -> dict[str, int | str]:
    """A command's status, and what it prints."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        status = main(list(arguments))
    return {"status": status, "printed": printed.getvalue()}


def all_commands(folder: Path) -> dict[str, dict]:
    """What each says."""
    out = ("--out", str(folder))
    selection = ("--method", CELL.method, "--model", CELL.model, "--res", "64", "--batch-size", "2", "--device", "cuda")
    said = {name: call("run", *selection, *out) for name in ("run", "again")}
    campaign.campaign_cells = lambda gpu: [CELL, preloading_of(CELL)]
    validate.validation_cells = lambda gpu: [CELL]
    said["campaign"] = call("campaign", *out, "--limit-s", "300")
    said["validate"] = call("validate", *out)
    return said


if __name__ == "__main__":
    assert is_emulated()
    print(json.dumps(all_commands(Path(sys.argv[1]))))
