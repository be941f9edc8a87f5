"""How good a classifier is (FPT+, Sec. IV-B2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_auroc,
    multiclass_confusion_matrix,
    multiclass_recall,
    multiclass_specificity,
)

from fptplus.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How a classifier does on one split."""

    auc: float
    """Macro one-vs-rest area under the ROC curve (AUC) of the probabilities, 0 to 1."""

    auc_of_logits: float
    """As the official code reports its AUC: of the raw logits, which rank images otherwise than probabilities do.
    Macro one-vs-rest; of two classes, that of the second alone. Compare the paper's tables with this one."""

    accuracy: float
    loss: float
    """Mean cross-entropy."""

    auc_by_class: tuple[float, ...]

    sensitivity_by_class: tuple[float, ...]
    specificity_by_class: tuple[float, ...]
    """Share of the class's images, and of all others', that are predicted right as being or not being of the class; an
    image is predicted to be of the class of its highest logit."""

    confusion: tuple[tuple[int, ...], ...]
    """Number of images by true class (rows) and predicted class (columns)."""


class Diverged(InvalidInput):
    """A model whose outputs are no longer numbers: it has no AUC."""


def check_auc_is_defined(labels: Tensor, classes: Sequence[str], split: str) -> None:
    """Check that a split has images of each class and of the other classes.

    Raises:
        InvalidInput: naming the first class that is missing.
    """
    present = set(labels.tolist())
    if len(present) == 1:
        raise InvalidInput(
            f"{split} must hold images of at least two classes, all are of {classes[present.pop()]!r}: the area under "
            "the ROC curve is not defined for one class; add images of another."
        )
    for index, name in enumerate(classes):
        if index not in present:
            raise InvalidInput(
                f"{split} must hold images of every class, none is of {name!r}, so its area under the ROC curve is not "
                "defined; split again or leave the class out."
            )


def score(logits: Tensor, labels: Tensor) -> Scores:
    """Scores of (N, classes) logits against (N,) class indices; each class must occur (check_auc_is_defined).

    Raises:
        Diverged: if a logit is not finite.
    """
    if not logits.isfinite().all():
        raise Diverged(
            f"logits must be finite, those of {int((~logits.isfinite().all(dim=1)).sum())} of {len(logits)} images "
            "are not: the training diverged; train with a lower lr, or in fp32."
        )
    classes = logits.shape[1]
    logits = logits.double()
    by_class = multiclass_auroc(logits.softmax(dim=1), labels, classes, average=None)
    predicted = logits.argmax(dim=1)
    return Scores(
        auc=by_class.mean().item(),
        auc_of_logits=_auc_of_logits(logits, labels),
        accuracy=(predicted == labels).double().mean().item(),
        loss=torch.nn.functional.cross_entropy(logits, labels).item(),
        auc_by_class=tuple(by_class.tolist()),
        sensitivity_by_class=tuple(multiclass_recall(predicted, labels, classes, average=None).tolist()),
        specificity_by_class=tuple(multiclass_specificity(predicted, labels, classes, average=None).tolist()),
        confusion=tuple(tuple(row) for row in multiclass_confusion_matrix(predicted, labels, classes).tolist()),
    )


def _auc_of_logits(logits: Tensor, labels: Tensor) -> float:
    """AUC by the order of each class's own logits, as torcheval gives it to the official code."""
    classes = logits.shape[1]
    ranks = torch.stack([column.unique(return_inverse=True)[1] for column in logits.unbind(dim=1)], dim=1)
    by_class = multiclass_auroc(ranks.double() / len(ranks), labels, classes, average=None)  # 0 to 1: taken as it is
    return (by_class[1] if classes == 2 else by_class.mean()).item()


INTERVAL_SCORES = ("auc", "auc_of_logits", "accuracy")
"""Scores that get a confidence interval."""


def confidence_intervals(
    logits: Tensor, labels: Tensor, *, resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % confidence intervals of INTERVAL_SCORES, by the percentiles of a bootstrap over the images.

    Images are drawn anew within each class, so that every class has as many in each resample and its AUC is defined.
    Images are taken as independent: where several are of one patient, the intervals are too narrow.

    Args:
        logits, labels: as `score` takes them.
        resamples: how often to draw.
        seed: of the draws.

    Raises:
        Diverged: if a logit is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    logits, labels = logits.cpu(), labels.cpu()
    members = [torch.nonzero(labels == label).squeeze(1) for label in range(logits.shape[1])]
    scores = []
    for _ in range(resamples):
        draws = [rows[torch.randint(len(rows), (len(rows),), generator=generator)] for rows in members]
        chosen = torch.cat(draws)
        resampled = score(logits[chosen], labels[chosen])
        scores.append([getattr(resampled, name) for name in INTERVAL_SCORES])
    low, high = torch.tensor(scores, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975]).double(), dim=0)
    return {name: (low[i].item(), high[i].item()) for i, name in enumerate(INTERVAL_SCORES)}
