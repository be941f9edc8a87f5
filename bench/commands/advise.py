"""`python -m bench advise`: which methods fit a GPU."""

from dataclasses import dataclass, replace

from bench.cards.gpus import Gpu
from bench.cells.config import CellConfig, Setting
from bench.cells.grid import preloading_of
from bench.cells.identity import IDENTITY
from bench.predict.advice import Advice, advise_all
from bench.predict.prediction import Prediction
from bench.predict.predictor import Engine, predict_all
from bench.report.table_formats import FormatOption, Value, printing
from bench.report.terminal import advice_view, remedies_in_words
from bench.report.time_tables import training_view
from bench.sweep.sweep import checked_cells
from bench.timing.training import TrainingEstimate, training_of
from bench.units import MIB
from fptplus import InvalidInput
from fptplus.paper_training import EPOCHS, TABLE2_SPLIT_IMAGES
from methods import PASSES, patch_size_of

from .progress import progress_bar, say_engine


@dataclass(frozen=True, kw_only=True)
class AdviseConfig(FormatOption, Setting):
    """Say which methods fit a GPU, their largest batch and resolution, and what would make the others fit.

    Example: --gpu rtx3090 --model vit_b --res 1024, or --gpu-memory 11GiB.
    """

    epochs: int = EPOCHS
    """Epochs of the training whose time and energy are predicted."""

    num_images: int = TABLE2_SPLIT_IMAGES
    """Images per epoch. The default is 60 % of Messidor-2, which the paper's Table II implies."""


def main(config: AdviseConfig) -> int:
    """Print verdicts for a GPU, from predictions alone."""
    for name, value, least in (("epochs", config.epochs, 1), ("num-images", config.num_images, config.batch_size)):
        if value < least:
            raise InvalidInput(f"{name} must be at least {least}, got {value}.")
    cells, gpu = checked_cells(config), config.gpu_to_predict
    say_engine(config.engine)
    with printing(config.format) as printer:
        for model, res in dict.fromkeys((cell.model, cell.res) for cell in cells):
            asked = [cell for cell in cells if (cell.model, cell.res) == (model, res)]
            advice, passes = _advice(asked, config.engine), _preloading(asked, config.engine)
            rows, timed = [], []
            for cell, one in zip(asked, advice, strict=True):
                training = _training(cell, one, passes.get(cell.method), config)
                rows.append(_row(cell, gpu, one, passes.get(cell.method), training))
                timed += [(one.method, one.step, training)] if training else []
            views = [advice_view(asked[0], gpu, advice)]
            if timed:
                views.append(training_view(timed, gpu, config.epochs, config.num_images))
            printer.show(rows, *views)
            for method, one in passes.items():
                needs = f"{one.process_bytes / MIB:,.0f} MiB"
                printer.note(f"{method}: preloading its features takes {needs}, one image at a time")
    return 0


def _advice(cells: list[CellConfig], engine: Engine) -> list[Advice]:
    """Return advice for each method, showing progress on standard error."""
    advice = []
    with progress_bar(len(cells)) as progress:
        for cell, one in zip(cells, advise_all(cells, patch_size_of(cells[0].model), engine), strict=True):
            progress.begin(cell)
            advice.append(one)
            progress.end(one)
    return advice


def _preloading(cells: list[CellConfig], engine: Engine) -> dict[str, Prediction]:
    """Predict preloading one image at a time, by the method that reads the features."""
    preloaded = [cell for cell in cells if f"{cell.method}_preloading" in PASSES]
    passes = [replace(preloading_of(cell), batch_size=1) for cell in preloaded]
    found = {}
    for cell, answer in zip(preloaded, predict_all(passes, engine), strict=True):
        if isinstance(answer, Exception):
            raise answer
        found[cell.method] = answer
    return found


def _training(
    cell: CellConfig, advice: Advice, preloading: Prediction | None, config: AdviseConfig
) -> TrainingEstimate | None:
    """Return the time and energy of a training; None if the step does not run, or nothing is known of its time."""
    if advice.step is None or (preloading is not None and preloading.estimate is None):
        return None
    before = None if preloading is None else preloading.estimate
    return training_of(advice.step, cell.batch_size, config.num_images, config.epochs, before)


def _row(
    cell: CellConfig, gpu: Gpu, advice: Advice, preloading: Prediction | None, training: TrainingEstimate | None
) -> dict[str, Value]:
    """Return one method's advice together with everything that was asked."""
    asked = {name: getattr(cell, name) for name in IDENTITY}
    return asked | {
        "gpu": gpu.name,
        "gpu_memory_bytes": gpu.memory_bytes,
        "fits": advice.fits,
        "predicted_process_bytes": advice.process_bytes,
        "headroom_bytes": advice.headroom_bytes,
        "largest_batch_size": advice.largest_batch,
        "largest_res": advice.largest_res,
        "remedies": remedies_in_words(advice) or None,
        "preloading_process_bytes": None if preloading is None else preloading.process_bytes,
        "predicted_step_time_s": advice.step and advice.step.step_time_s,
        "predicted_train_time_s": training and training.train_time_s,
        "predicted_preloading_time_s": training and training.preloading_time_s,
        "predicted_energy_kwh": training and training.energy_kwh,
    }
