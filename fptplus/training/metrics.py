"""How good a classifier is (FPT+, Sec. IV-B2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_auroc, multiclass_confusion_matrix

from fptplus.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How a classifier does on one split."""

    auc: float
    """Macro one-vs-rest area under the ROC curve, 0 to 1."""

    accuracy: float
    loss: float
    """Mean cross-entropy."""

    auc_by_class: tuple[float, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Number of images by true class (rows) and predicted class (columns)."""


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
    """Score logits (N, classes) against class indices (N,); each class must occur (see check_auc_is_defined)."""
    classes = logits.shape[1]
    logits = logits.double()
    by_class = multiclass_auroc(logits.softmax(dim=1), labels, classes, average=None)
    predicted = logits.argmax(dim=1)
    return Scores(
        auc=by_class.mean().item(),
        accuracy=(predicted == labels).double().mean().item(),
        loss=torch.nn.functional.cross_entropy(logits, labels).item(),
        auc_by_class=tuple(by_class.tolist()),
        confusion=tuple(tuple(row) for row in multiclass_confusion_matrix(predicted, labels, classes).tolist()),
    )
