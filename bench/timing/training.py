"""Time and energy of a whole training on a card, preloading included: predicted from a step's estimate."""

from dataclasses import dataclass

from .estimate import StepEstimate
from .feeding import BatchFeed, fed_step_s, save_s

J_PER_KWH = 3.6e6


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate:
    """Prediction of a training's time and energy on a card. Evaluation is not included."""

    train_time_s: float
    """Time of the epochs, whose batches come through the loader of timing/feeding.py."""

    preloading_time_s: float
    """Time of the pass that makes features, once before the first epoch; 0 for methods without one."""

    energy_j: float
    """Energy of the card over both, idle power included."""

    @property
    def total_time_s(self) -> float:
        """Time of preloading and training, in seconds."""
        return self.preloading_time_s + self.train_time_s

    @property
    def energy_kwh(self) -> float:
        """Energy of the card in kilowatt-hours."""
        return self.energy_j / J_PER_KWH


def training_of(
    step: StepEstimate,
    batch_size: int,
    num_images: int,
    epochs: int,
    preloading: StepEstimate | None = None,
    feed: BatchFeed | None = None,
) -> TrainingEstimate:
    """Predict a training.

    Args:
        step: one training step, with its batch on the card.
        batch_size: images in a step; the last incomplete batch of an epoch is dropped.
        num_images: images of an epoch.
        epochs: number of epochs.
        preloading: the pass over one image, if the method reads preloaded features.
        feed: how batches come; the official code's loader by default.
    """
    feed, num_steps = feed or BatchFeed(), epochs * (num_images // batch_size)
    fed_s = fed_step_s(step.step_time_s, step.input_bytes, feed)
    waiting_j = step.awake_w * (fed_s - step.step_time_s)
    energy_j, preloading_s = num_steps * (step.energy_j_per_img * batch_size + waiting_j), 0.0
    if preloading is not None:
        saving_s = save_s(step.input_bytes // batch_size, feed)
        preloading_s = num_images * (preloading.step_time_s + saving_s)
        energy_j += num_images * (preloading.energy_j_per_img + preloading.awake_w * saving_s)
    return TrainingEstimate(train_time_s=num_steps * fed_s, preloading_time_s=preloading_s, energy_j=energy_j)
