"""Two models on the same patches: differences, their errors, and how often the interval holds."""

import math

import numpy as np
import pytest

from medfl.metrics.delong import clustered_delong
from medfl.metrics.measure import measure
from medfl.metrics.paired_figures import PairedFigure, mean_of_sites, paired_figures

CLASSES = ("a", "b", "c")


def drawn(seed: int, skill: tuple[float, float], groups: int = 30, per_group: int = 3):
    """(probabilities of two models, labels, groups): what a group looks like is common to both."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.permutation(np.arange(groups) % 3), per_group)
    group = np.repeat(np.arange(groups), per_group)
    common = np.repeat(rng.normal(size=(groups, 3)), per_group, axis=0) + rng.normal(size=(len(labels), 3))
    probs = []
    for s in skill:
        logits = common + 0.7 * rng.normal(size=common.shape) + s * np.eye(3)[labels]
        probs.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    return tuple(probs), labels, group


def test_differences_are_those_of_the_figures():
    probs, labels, group = drawn(0, (2.0, 1.0))
    limits = {"malignant": 0.4}
    made = paired_figures(probs, labels, group, CLASSES, malignant=["a", "b"], thresholds=(limits, limits))
    one, other = (measure(p, labels, group, CLASSES) for p in probs)
    for key in ("auroc", "balanced_accuracy", "brier", "ece"):
        assert made[key].difference == one[key] - other[key]
    called = [p[:, :2].sum(axis=1) >= 0.4 for p in probs]
    assert made["sensitivity"].difference == pytest.approx(
        (called[0][labels < 2].mean()) - called[1][labels < 2].mean()
    )
    assert made["ece"].interval() is None
    low, high = made["auroc"].interval()
    assert low < made["auroc"].difference < high


def test_against_chance_the_error_is_that_of_the_one_model():
    """A model that scores all patches alike has an AUROC of one half without any influence."""
    (probs, _), labels, group = drawn(1, (1.0, 1.0))
    made = paired_figures((probs, np.full_like(probs, 1 / 3)), labels, group, CLASSES)["auroc"]
    alone = clustered_delong(probs, labels, group, 30)
    assert (made.other, made.se**2, made.df) == pytest.approx((0.5, alone.mean, alone.df_mean))


def test_a_model_against_itself_has_no_difference_and_no_interval():
    (probs, _), labels, group = drawn(2, (1.0, 1.0))
    made = paired_figures((probs, probs), labels, group, CLASSES)
    assert {(figure.difference, figure.interval()) for figure in made.values()} == {(0.0, None)}


def test_too_few_groups_have_no_error():
    probs, labels, group = drawn(3, (1.0, 1.0), groups=3)
    assert paired_figures(probs, labels, np.zeros_like(group), CLASSES)["brier"].se is None


@pytest.mark.parametrize("key", ["auroc", "balanced_accuracy", "brier"])
def test_the_interval_holds_where_models_are_alike(key):
    """Of 150 pairs of equally good models, about 95 of 100 intervals hold 0."""
    holds = []
    for seed in range(150):
        low, high = paired_figures(*drawn(seed, (1.0, 1.0)), CLASSES)[key].interval()
        holds.append(low <= 0 <= high)
    assert 0.89 <= np.mean(holds) <= 0.99


def test_sites_are_independent():
    mean = mean_of_sites([PairedFigure(0.9, 0.8, 0.03, 10.0), PairedFigure(0.7, 0.8, 0.04, 10.0)])
    assert mean.difference == pytest.approx(0.0)
    assert mean.se == pytest.approx(math.hypot(0.03, 0.04) / 2)
    assert mean.df > 10
    assert mean_of_sites([PairedFigure(0.9, 0.8), PairedFigure(0.7, 0.8, 0.04, 10.0)]).se is None
