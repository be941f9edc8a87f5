"""Run one cell: predict it, measure it where asked, and make its record."""

import warnings
from datetime import UTC, datetime

from fptplus import InvalidInput

from .config import CellConfig
from .environment import provenance
from .measure import TimingBudget, measure
from .predict.predictor import Prediction, predict
from .record import Record, new_record


def run_cell(cell: CellConfig, budget: TimingBudget) -> Record:
    """Predict and, where the cell names a device, measure; whatever goes wrong with one cell is in its record."""
    record = new_record(cell)
    record.started_at = datetime.now(UTC).isoformat(timespec="seconds")
    _fill(record, provenance())
    try:
        prediction = predict(cell)
        _fill(record, _columns_of(prediction))
        if cell.device == "nothing":
            record.status_detail = "predicted only: no device was asked"
        else:
            _fill(record, measure(cell, prediction, budget))
    except InvalidInput as error:
        record.status, record.status_detail = "unsupported", str(error)
    except Exception as error:  # one broken cell must not end a sweep; the record says what broke
        warnings.warn(f"{cell.method} at {cell.model} {cell.res}: {error!r}", stacklevel=2)
        record.status, record.status_detail = "failed", f"{type(error).__name__}: {error}"
    return record


def _fill(record: Record, columns: dict) -> None:
    for name, value in columns.items():
        setattr(record, name, value)


def _columns_of(prediction: Prediction) -> dict[str, int | float | None]:
    """A prediction as columns of a record."""
    shared = (
        "learnable_params",
        "total_params",
        "params_pct",
        "forward_macs",
        "train_step_macs",
        "backbone_forward_macs",
        "fvcore_forward_macs",
    )
    split = {f"predicted_{kind}_bytes": size for kind, size in prediction.peak.by_kind.items()}
    return {
        **{name: getattr(prediction, name) for name in shared},
        "predicted_peak_allocated_bytes": prediction.peak.allocated_bytes,
        "predicted_peak_reserved_bytes": prediction.peak.reserved_bytes,
        "predicted_process_bytes": prediction.process_bytes,
        **split,
    }
