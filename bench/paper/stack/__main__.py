"""`python -m bench.paper.stack`: the paper's memory of FPT and FPT+ on the paper's software, emulated."""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from bench.paper.evidence import PAPER_FOLDER
from fptplus import InvalidInput

from .run_stack import ROOT, emulate_stack
from .stack_cells import stack_cells
from .stack_rows import FILE, write_stack
from .stack_table import stack_lines


@dataclass(frozen=True, kw_only=True)
class PaperStackConfig:
    """Emulate the 23 memory cells that the paper prints for FPT and FPT+, with PyTorch 2.0.0, and write a CSV file.

    The exit status is 1 if printed less reserved memory is not one constant within one stored block for every cell.
    """

    python: str = str(ROOT / ".nox" / "paper_stack" / "bin" / "python")
    """Interpreter of an environment with PyTorch 2.0.0."""

    results: str = "results"
    """Results folder; the rows go to its paper/paper_stack.csv."""


def main(arguments: list[str]) -> int:
    """Emulate the cells, save the rows and print them."""
    config = tyro.cli(PaperStackConfig, args=arguments, prog="python -m bench.paper.stack")
    stack = emulate_stack(Path(config.python), stack_cells())
    folder = Path(config.results) / PAPER_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_stack(folder / FILE, stack)
    print("\n".join(stack_lines(stack)))
    ranges = (stack.constants_mib(evaluated=evaluated) for evaluated in (False, True))
    return int(any(low > high for low, high in ranges))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InvalidInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
