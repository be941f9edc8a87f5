"""`python -m fptplus COMMAND ...`"""

import sys
import warnings

from .front_door import FrontDoor

COMMANDS = {
    "prepare": "put a dataset of the paper, as downloaded, into class folders",
    "synthesize": "make a dataset of synthetic fundus images with tiny lesions",
    "pretrain": "train a small LPM on the structure of synthetic images",
    "preload": "run the frozen LPM once over a dataset and keep its features",
    "train": "train a method on a preloaded store, and test it",
    "evaluate": "score a checkpoint on a split of a store, or on images",
    "visualize": "draw important tokens and the prompts' attention",
    "study": "compare FPT+ with its side network alone on synthetic images",
    "verify": "check that a store is whole",
}

DOOR = FrontDoor(
    program="python -m fptplus",
    package="methods.cli",
    commands=COMMANDS,
    modules={"verify": "verify_store"},  # `python -m bench verify` has the other name
)


def main(arguments: list[str]) -> int:
    """Run a command."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script. is deprecated.*")  # fvcore's import
    return DOOR.enter(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
