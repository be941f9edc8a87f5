"""What a failed cell wrote on its error stream, kept where the record's `status_detail` says."""

from collections.abc import Callable

from bench.records.measured_columns import Reading

KeepLog = Callable[[str], str]
"""Keeps a text and says where, as `ResultsStore.keep_log` does for a cell; an OSError where it cannot."""


def forget(text: str) -> str:
    """Keep nothing."""
    return ""


def with_log(reading: Reading, text: str, keep_log: KeepLog) -> Reading:
    """Columns of a failed cell, `status_detail` with the file that has its traceback.

    Args:
        reading: with a `status_detail`.
        text: of the error stream; nothing is kept of an empty one.
        keep_log: where it goes. A full disk costs the log and not the record.
    """
    if not text.strip():
        return reading
    try:
        path = keep_log(text)
        told = f"see {path}" if path else ""
    except OSError as error:
        told = f"its log could not be kept ({error.strerror})"
    return reading | {"status_detail": "; ".join(filter(None, (reading["status_detail"], told)))}
