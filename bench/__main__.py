"""`python -m bench [command] ...`"""

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
    "emulate": "Run any training script on a GPU that is not there: will it fit?",
    "plan": "List what a sweep would run, and how long it would take.",
    "validate": "Check emulated and traced memory against this machine's GPU.",
    "campaign": "Measure the paper's efficiency tables on this machine's GPU.",
    "compare": "Show what changed from one results folder to another.",
    "published": "Check emulated memory against what others have measured.",
    "reproduce": "Make the paper's tables and figures, and the report.",
    "verify": "Check each number that the paper prints against ours.",
    "doctor": "Say what can be measured on this machine, and how to fix the rest.",
}
PREDICTING = ("run", "advise", "why", "plan", "reproduce")
"""Commands that need emulated cards in nearly every call."""

DOOR = FrontDoor(
    program="python -m bench",
    package="bench.commands",
    commands=COMMANDS,
    default="run",
    interrupted="interrupted; what was measured is kept, call it again to resume",
    needs=("methods",),
)


def main(arguments: list[str]) -> int:
    """Run a command; `run` where none is named."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script. is deprecated.*")  # fvcore's import
    return DOOR.enter(arguments)


def start_cards(arguments: list[str]) -> None:
    """Let the process of the emulated cards import PyTorch while this one does, where the command will need it."""
    command = arguments[0] if arguments and not arguments[0].startswith("-") else DOOR.default
    if command in PREDICTING and not {"-h", "--help", "traced", "--engine=traced"} & set(arguments):
        with suppress(CannotEmulate, InvalidInput):  # the command says so in its place
            DOOR.check_packages()
            shared_pool()


if __name__ == "__main__":
    start_cards(sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
