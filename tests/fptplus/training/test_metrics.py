"""Scores compared with their definitions and with the paper's own efficiency figures."""

import itertools
import math

import pytest
import torch

from fptplus import InvalidInput
from fptplus.training.efficiency import performance_efficiency
from fptplus.training.metrics import Diverged, check_auc_is_defined, confidence_intervals, score


def area_by_counting_pairs(scores, positive):
    """The area under the ROC curve is the chance that a positive outranks a negative, ties counting half."""
    pairs = itertools.product(scores[positive].tolist(), scores[~positive].tolist())
    wins = [1.0 if high > low else 0.5 if high == low else 0.0 for high, low in pairs]
    return sum(wins) / len(wins)


def test_auc_is_the_mean_over_classes_of_the_chance_that_a_positive_outranks_a_negative():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 4
    logits = torch.randn(60, 4, generator=generator) + torch.nn.functional.one_hot(labels, 4)
    expected = [area_by_counting_pairs(logits.double().softmax(1)[:, c], labels == c) for c in range(4)]
    scores = score(logits, labels)
    assert scores.auc_by_class == pytest.approx(expected, abs=1e-6)
    assert scores.auc == pytest.approx(sum(expected) / 4, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_official_code_s_auc_is_that_of_each_class_s_raw_logits(classes):
    """torcheval ranks raw logits, beyond 0 to 1 as they are; of two classes it sees the second alone."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % classes
    logits = 40 * torch.randn(60, classes, generator=generator) + torch.nn.functional.one_hot(labels, classes)
    logits[:, -1] += 1e3
    expected = [area_by_counting_pairs(logits[:, c], labels == c) for c in range(classes)]
    scores = score(logits, labels)
    official = expected[1] if classes == 2 else sum(expected) / classes
    assert scores.auc_of_logits == pytest.approx(official, abs=1e-6) != pytest.approx(scores.auc, abs=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_no_numbers_have_no_auc_rather_than_a_half(value):
    logits = torch.tensor([[1.0, 0], [0, value], [0, 1], [1, 0]])
    with pytest.raises(Diverged, match="logits must be finite, those of 1 of 4 images are not"):
        score(logits, torch.tensor([0, 1, 0, 1]))


def test_confusion_counts_each_image_once_by_truth_and_prediction():
    scores = score(torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 3, 1], [0, 0, 1]]), torch.tensor([0, 1, 2, 2]))
    assert scores.confusion == ((1, 0, 0), (0, 1, 0), (0, 1, 1))
    assert scores.accuracy == 0.75


def test_sensitivity_and_specificity_are_shares_of_the_class_and_of_the_others():
    scores = score(torch.eye(3)[[0, 0, 1, 2, 2, 0]], torch.tensor([0, 0, 0, 1, 2, 2]))
    assert scores.sensitivity_by_class == pytest.approx((2 / 3, 0, 1 / 2))
    assert scores.specificity_by_class == pytest.approx((2 / 3, 4 / 5, 3 / 4))


def test_intervals_hold_the_score_and_narrow_with_more_images():
    def interval(images):
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(images) % 2
        logits = torch.randn(images, 2, generator=generator) + torch.nn.functional.one_hot(labels, 2)
        found = confidence_intervals(logits, labels, resamples=100)
        assert found == confidence_intervals(logits, labels, resamples=100)
        for name, (low, high) in found.items():
            assert 0 <= low < getattr(score(logits, labels), name) < high <= 1
        low, high = found["auc"]
        return high - low

    wide, narrow = interval(40), interval(640)
    assert narrow == pytest.approx(wide / 4, rel=0.5)


def test_a_split_of_one_class_has_no_auc():
    with pytest.raises(InvalidInput, match="val must hold images of at least two classes, all are of 'healthy'"):
        check_auc_is_defined(torch.zeros(3, dtype=torch.long), ("healthy", "ill"), "val")


def test_a_missing_class_is_named():
    with pytest.raises(InvalidInput, match="test must hold images of every class, none is of 'severe'"):
        check_auc_is_defined(torch.tensor([0, 1]), ("healthy", "ill", "severe"), "test")


@pytest.mark.parametrize(
    ("auc", "ratio", "printed"),
    [(88.82, 1.0, 65.73), (87.12, 0.0103, 86.73), (87.12, 736 / 23128, 85.94), (85.94, 20970 / 23128, 64.93)],
)
def test_efficiency_figures_are_the_papers(auc, ratio, printed):
    assert performance_efficiency(auc, ratio) == pytest.approx(printed, abs=0.006)
