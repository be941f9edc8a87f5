"""What a failed cell wrote to standard error, kept where the record's `status_detail` says."""

from collections.abc import Callable

from bench.records.measured_columns import Reading

KeepLog = Callable[[str], str]
"""Keeps a text and returns its place, as `ResultsStore.keep_log` does for a cell; raises OSError if it cannot."""


def forget(text: str) -> str:
    """Keep nothing, and return no place."""
    return ""


def with_log(reading: Reading, text: str, keep_log: KeepLog) -> Reading:
    """Return the columns of a failed cell; `status_detail` names the file with its traceback.

    Args:
        reading: columns with a `status_detail`.
        text: what was written to standard error; if it is empty, nothing is kept.
        keep_log: keeps the text. A full disk costs the log but not the record.
    """
    if not text.strip():
        return reading
    try:
        path = keep_log(text)
        told = f"see {path}" if path else ""
    except OSError as error:
        told = f"its log could not be kept ({error.strerror})"
    return reading | {"status_detail": "; ".join(filter(None, (reading["status_detail"], told)))}
