"""The entry point of `python -m fptplus COMMAND ...`."""

import sys
import warnings

from .busy_machine import wait_without_spinning_if_busy
from .front_door import FrontDoor

COMMANDS = {
    "prepare": "Sort a downloaded dataset of the paper into class folders.",
    "synthesize": "Make a dataset of synthetic fundus images with tiny lesions.",
    "pretrain": "Train a small backbone on the structure of synthetic images.",
    "preload": "Run the frozen backbone once over a dataset; store its features.",
    "train": "Train a method on a preloaded store, and test it.",
    "evaluate": "Score a checkpoint on a split of a store, or classify images.",
    "visualize": "Draw important tokens and the prompts' attention.",
    "study": "Compare FPT+ with its side network alone on synthetic images.",
    "verify": "Check that a store is complete and unchanged.",
}

COMPUTING = ("pretrain", "preload", "train", "evaluate", "study")
"""Commands that compute for long, on a CPU with all its processors."""

DOOR = FrontDoor(
    program="python -m fptplus",
    package="methods.cli",
    commands=COMMANDS,
    modules={"verify": "verify_store"},
    needs=("methods",),
)


def main(arguments: list[str]) -> int:
    """Run a command and return its exit status."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script. is deprecated.*")  # raised when fvcore is imported
    computes = arguments[:1] and arguments[0] in COMPUTING and not {"-h", "--help"} & set(arguments)
    if computes and (note := wait_without_spinning_if_busy()) is not None:
        print(f"note: {note}", file=sys.stderr)
    return DOOR.enter(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
