"""`python -m bench [command] ...`; wrong input becomes one sentence and a status here, nowhere else."""

import sys
import warnings
from collections.abc import Callable

from fptplus import InvalidInput

from . import commands

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": commands.run,
    "advise": commands.advise,
    "why": commands.why,
    "validate": commands.validate,
    "plan": commands.plan,
    "compare": commands.compare,
    "doctor": commands.doctor,
    "campaign": commands.campaign,
    "published": commands.published,
    "reproduce": commands.reproduce,
    "verify": commands.verify,
}


def main(arguments: list[str]) -> int:
    """Run a command; `run` where none is named."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script. is deprecated.*")  # fvcore's import
    name, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in COMMANDS else ("run", arguments)
    try:
        return COMMANDS[name](rest)
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept, call it again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
