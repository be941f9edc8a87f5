"""`python -m fptplus COMMAND ...`; wrong input becomes one sentence and a status here, nowhere else."""

import sys
import warnings
from collections.abc import Callable
from importlib import import_module

from .errors import InvalidInput

COMMANDS: dict[str, str] = {
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
"""Each command by what it does; `fptplus/cli/COMMAND.py` holds it, and is imported only when called."""


def find_command(name: str) -> Callable[[list[str]], int]:
    """The function of a command: takes the options, returns the exit status."""
    return getattr(import_module(f"fptplus.cli.{name}"), f"{name}_command")


def main(arguments: list[str]) -> int:
    """Run a command."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print("usage: python -m fptplus COMMAND [options]; COMMAND --help explains its options\n")
        print("\n".join(f"  {command:12}{does}" for command, does in COMMANDS.items()))
        return 0
    if name not in COMMANDS:
        print(f"error: command must be one of {', '.join(COMMANDS)}, got {name!r}.", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore", message=".*torch.jit.script. is deprecated.*")  # fvcore's import
    try:
        return find_command(name)(arguments[1:])
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
