"""Commands whose predictions, measurements and figures are replaced by stand-ins."""

import sys
from types import SimpleNamespace

import pytest

from bench.cells.config import CellConfig
from bench.commands import advise, published, reproduce, why
from bench.predict.advice import Advice
from bench.predict.predictor import dissect
from bench.sweep import harness


@pytest.fixture(scope="module")
def small():
    """One cell's prediction and anatomy, which stand for all: command lines are tested here, predictions elsewhere."""
    return dissect(CellConfig(method="linear", model="test_vit", res=32), "traced")


@pytest.fixture
def quick(monkeypatch, small):
    """Nothing is predicted, measured, searched or drawn."""
    prediction, anatomy = small
    found = {"device": "a CPU", "step_time_s": 1.0, "step_time_p10_s": 1.0, "step_time_p90_s": 1.0}
    monkeypatch.setattr(harness, "run_isolated", lambda *_: dict(found))
    monkeypatch.setattr(harness, "predict", lambda cell, engine: prediction)
    monkeypatch.setattr("bench.sweep.planning.predict_all", lambda cells, engine: [prediction] * len(cells))
    advice = Advice(
        method="linear", fits="yes", process_bytes=1, headroom_bytes=1, largest_batch=None, largest_res=1, remedies=()
    )
    monkeypatch.setattr(advise, "advise_all", lambda cells, *_: [advice] * len(cells))
    monkeypatch.setattr(advise, "predict_all", lambda cells, engine: [prediction] * len(cells))
    monkeypatch.setattr(why, "dissect_all", lambda cells, engine: [(prediction, anatomy)] * len(cells))
    monkeypatch.setattr(why, "contributions", lambda cell: [])
    monkeypatch.setattr(reproduce, "predict_missing", lambda *_: 0)
    monkeypatch.setattr(reproduce, "write_everything", lambda results: None)
    monkeypatch.setitem(sys.modules, "bench.published.rerun", SimpleNamespace(emulate=lambda rows: {}))
    measurements = published.read_measurements()[:1]
    monkeypatch.setattr(published, "read_measurements", lambda: measurements)
    monkeypatch.setattr(published, "draw_comparisons", lambda *_: None)
    monkeypatch.setattr(published, "summarize", lambda comparisons: None)
    monkeypatch.setattr(published, "_sentence", str)
    for draw in ("draw_timeline", "draw_breakdown"):
        monkeypatch.setattr(why, draw, lambda *_: None)
