"""Entry point of the benchmark: `python -m bench [command] ...`."""

import sys
import warnings
from contextlib import suppress

from bench.emulate.build import CannotEmulate
from bench.predict.processes import shared_pool
from fptplus.errors import InvalidInput
from fptplus.front_door import FrontDoor

COMMANDS = {
    "run": "Predict memory and compute of methods; measure on a GPU, if any.",
    "advise": "Say which methods fit a GPU, and what would make the others fit.",
    "why": "Show what each method needs its memory for.",
    "emulate": "Run any training script on a GPU that is not there: see if it fits.",
    "plan": "List what a sweep would run, and how long it would take.",
    "validate": "Check emulated and traced memory against this machine's GPU.",
    "campaign": "Measure the paper's efficiency tables on this machine's GPU.",
    "compare": "Show what changed from one results folder to another.",
    "published": "Check emulated memory against what others have measured.",
    "timing": "Check predicted time against what others have measured.",
    "reproduce": "Make the paper's tables and figures, and the report.",
    "verify": "Check each number that the paper prints against ours.",
    "doctor": "Say what can be measured on this machine, and how to fix the rest.",
}
PREDICTING = ("run", "advise", "why", "plan", "reproduce")
"""Commands that use emulated cards in nearly every call."""

DOOR = FrontDoor(
    program="python -m bench",
    package="bench.commands",
    commands=COMMANDS,
    default="run",
    interrupted="interrupted; what was measured is kept, call it again to resume",
    needs=("methods",),
)


def main(arguments: list[str]) -> int:
    """Run a command, by default `run`, and return its exit status."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script. is deprecated.*")  # fvcore's import
    return DOOR.enter(arguments)


def start_cards(arguments: list[str]) -> None:
    """Start the process of the emulated cards for a command that will need it.

    It imports PyTorch while this process does the same.
    """
    command = arguments[0] if arguments and not arguments[0].startswith("-") else DOOR.default
    if command in PREDICTING and not {"-h", "--help", "traced", "--engine=traced"} & set(arguments):
        with suppress(CannotEmulate, InvalidInput):  # the command itself reports it
            DOOR.check_packages()
            shared_pool()


if __name__ == "__main__":
    start_cards(sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
