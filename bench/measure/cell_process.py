"""The process of one cell: `python -m bench.measure.cell_process`, job on its input, journal on its output.

CUDA is initialised here and nowhere else. The process ends when its input closes, so it never outlives its parent.
"""

import json
import os
import shutil
import sys
import threading
import traceback

from .journal import Journal

_INPUT = 0
"""File descriptor of standard input."""


def main() -> None:
    """Measure the cell of the job given in the first line of the input."""
    job = json.loads(sys.stdin.readline())
    journal = Journal(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing a library prints may be taken for a line of the journal
    threading.Thread(target=_end_with_parent, args=(job["scratch"],), daemon=True).start()
    journal.begin("importing")
    try:
        _measure(job, journal)
    except Exception as error:
        traceback.print_exc()
        what = "import error" if isinstance(error, ImportError) else type(error).__name__
        cure = "; install what is missing (pip install -e .)" if isinstance(error, ImportError) else ""
        detail = f"{what} during {journal.phase}: {error}{cure}"
        journal.found({"status": "failed", "status_detail": detail, "ended_in_phase": journal.phase})
    journal.end()


def _measure(job: dict, journal: Journal) -> None:
    from pathlib import Path

    from bench.cells.config import CellConfig

    from .measure import Budget, measure

    measure(CellConfig(**job["cell"]), Budget(**job["budget"]), Path(job["scratch"]), journal)


def _end_with_parent(scratch: str) -> None:
    """Wait until the parent closes its end of the input, as it also does by dying, then end this process.

    It bypasses sys.stdin, whose lock a reading thread would hold: processes forked meanwhile to load data close
    sys.stdin first, and would wait for that lock for ever.
    """
    while os.read(_INPUT, 1):
        pass
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main()
