"""Predict cells: by PyTorch itself on the emulated device if that runs, else by a model of PyTorch on meta tensors."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Literal, TypeVar

from bench.cells.anatomy import Anatomy
from bench.cells.config import CellConfig
from bench.emulate.build import CannotEmulate, device_libraries
from bench.emulate.pool import Job

from . import emulated
from .prediction import Prediction, card_of
from .processes import shared_pool
from .processors import on_all_processors
from .traced import predict_traced

Engine = Literal["auto", "emulated", "traced"]
"""How to predict; auto is the emulated device if it runs here, else the trace."""

Answer = TypeVar("Answer")


@cache
def why_traced(engine: Engine) -> str | None:
    """Return why cells are traced and not emulated, in one sentence; None if they are emulated.

    Raises:
        CannotEmulate: if the emulated device is asked for but does not run here.
    """
    if engine == "traced":
        return "memory is traced, as asked (--engine traced)."
    try:
        device_libraries()
    except CannotEmulate as error:
        if engine == "emulated":
            raise
        return f"memory is traced, not emulated: {error}"
    return None


def predict(cell: CellConfig, engine: Engine = "auto") -> Prediction:
    """Return the parameters, multiply-accumulates and peak memory of a cell.

    Raises:
        InvalidInput: if the method cannot drive the model at this resolution, or the engine does not run here.
    """
    return dissect(cell, engine)[0]


def dissect(cell: CellConfig, engine: Engine = "auto") -> tuple[Prediction, Anatomy]:
    """Return a prediction, and what the memory is used for over a step; raises as predict()."""
    (answer,) = dissect_all([cell], engine)
    if isinstance(answer, Exception):
        raise answer
    return answer


def predict_all(cells: Iterable[CellConfig], engine: Engine = "auto") -> Iterator[Prediction | Exception]:
    """Yield the prediction of each cell, or what refuses it, in their order; use all processors."""
    for answer in dissect_all(cells, engine):
        yield answer if isinstance(answer, Exception) else answer[0]


def dissect_all(
    cells: Iterable[CellConfig], engine: Engine = "auto"
) -> Iterator[tuple[Prediction, Anatomy] | Exception]:
    """Yield the same as predict_all(), with what the memory is used for.

    Raises:
        CannotEmulate: if the emulated device is asked for but does not run here.
    """
    cells = list(cells)
    if why_traced(engine) is not None:
        yield from on_processors(_traced, cells)
        return
    for cell, answer in zip(cells, on_emulated_cards(emulated.predict_cell, cells), strict=True):
        yield _traced(cell, remark=str(answer)) if falls_back(cell, answer, engine) else answer


def falls_back(cell: CellConfig, answer: object, engine: Engine) -> bool:
    """Whether a cell is traced because the emulated device has no answer or PyTorch itself fails; warn if so."""
    if not (isinstance(answer, CannotEmulate | emulated.StepFails) and engine == "auto"):
        return False
    warnings.warn(f"memory of {cell.method} is traced, not emulated: {answer}", stacklevel=2)
    return True


def on_emulated_cards(function: Callable[..., Answer], cells: list[CellConfig], *arguments: object) -> Iterator[Answer]:
    """Yield what a function of a cell, its card and further arguments returns for each cell.

    Each call is made in a process of its own, which can fork others onto cards.
    """
    cards = [card_of(cell) for cell in cells]
    jobs = [Job(gpu=gpu, arguments=(cell, gpu, *arguments)) for cell, gpu in zip(cells, cards, strict=True)]
    return shared_pool().map(function, jobs)


def on_processors(function: Callable[[CellConfig], Answer], cells: list[CellConfig]) -> Iterator[Answer]:
    """Yield what a function returns for each cell, on all processors if there are many."""
    return map(function, cells) if len(cells) < 4 else on_all_processors(function, cells)


def _traced(cell: CellConfig, remark: str = "") -> tuple[Prediction, Anatomy] | Exception:
    try:
        prediction, anatomy = predict_traced(cell)
        return replace(prediction, remark=remark), anatomy
    except Exception as error:  # a failure concerns that cell only
        return error
