"""AUROC against scikit-learn, scipy's Mann-Whitney statistic and hand counts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from medfl.metrics.auroc import auroc_per_class, binary_auroc, compare, mean_auroc, supported


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [N, C] rounded so that ties are common, labels [N] that often lack classes."""
    rng = np.random.default_rng(seed)
    n, n_classes = int(rng.integers(1, 60)), int(rng.integers(2, 6))
    probs = rng.dirichlet(np.ones(n_classes), size=n).round(int(rng.integers(1, 4)))
    present = rng.choice(n_classes, size=int(rng.integers(1, n_classes + 1)), replace=False)
    return probs, rng.choice(present, size=n)


def test_hand_counted_with_a_tie() -> None:
    # positives .9 and .4; negatives .4, .3, .6: wins 3 of 3, and 1 + one tie of 3 -> (3 + 1.5) / 6
    scores = np.array([0.9, 0.4, 0.4, 0.3, 0.6])
    assert binary_auroc(scores, np.array([True, True, False, False, False])) == 4.5 / 6


@pytest.mark.parametrize("seed", range(40))
def test_against_scikit_learn_and_mann_whitney(seed: int) -> None:
    probs, labels = random_case(seed)
    ours = auroc_per_class(probs, labels)
    for c, value in enumerate(ours):
        positive = labels == c
        if positive.all() or not positive.any():
            assert np.isnan(value)
            continue
        assert value == pytest.approx(roc_auc_score(positive, probs[:, c]), abs=1e-12)
        u = mannwhitneyu(probs[positive, c], probs[~positive, c]).statistic
        assert value == pytest.approx(u / (positive.sum() * (~positive).sum()), abs=1e-12)
    assert np.array_equal(supported(labels, probs.shape[1]), ~np.isnan(ours))


@pytest.mark.parametrize("n", [2, 7, 1000])
def test_perfect_and_inverted_scores_are_exactly_one_and_zero(n: int) -> None:
    positive = np.arange(n) >= n // 2
    scores = np.arange(n) / 3.0
    assert binary_auroc(scores, positive) == 1.0
    assert binary_auroc(-scores, positive) == 0.0
    assert binary_auroc(np.full(n, 0.2), positive) == 0.5


def test_mean_over_supported_classes_only() -> None:
    # a perfect classifier on 2 of 5 classes: 1.0, where a mean over all five would say 0.4
    labels = np.array([1, 3, 1, 3])
    per_class = auroc_per_class(np.eye(5)[labels], labels)
    assert float(mean_auroc(per_class)) == 1.0
    assert np.isnan(per_class[[0, 2, 4]]).all()


@pytest.mark.parametrize(("labels", "expected"), [([], [False] * 3), ([2], [False] * 3), ([2, 0], [1, 0, 1])])
def test_no_patch_one_patch_and_one_side_have_no_support(labels: list[int], expected: list[bool]) -> None:
    array = np.array(labels, dtype=np.int64)
    assert supported(array, 3).tolist() == [bool(value) for value in expected]
    assert np.isnan(mean_auroc(auroc_per_class(np.full((len(labels), 3), 1 / 3), array))) == (len(labels) < 2)


@pytest.mark.parametrize("seed", range(15))
def test_weights_are_repetitions(seed: int) -> None:
    """Drawing unit u w times equals a data set in which its patches stand w times; no sides: nan."""
    rng = np.random.default_rng(seed)
    n, units, sets = 30, 6, 12
    scores = rng.integers(0, 8, n) / 8
    positive = rng.random(n) < 0.3
    unit = rng.integers(0, units, n)
    weights = rng.multinomial(units, np.ones(units) / units, size=sets).T.astype(float)
    weights[:, 0] = 0.0
    ours = compare(scores, positive, unit).auroc(weights)
    for r in range(sets):
        times = weights[unit, r].astype(int)
        truth, repeated = np.repeat(positive, times), np.repeat(scores, times)
        if truth.all() or not truth.any():
            assert np.isnan(ours[r])
        else:
            assert ours[r] == pytest.approx(roc_auc_score(truth, repeated), abs=1e-12)


def test_order_of_patches_does_not_matter() -> None:
    probs, labels = random_case(3)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    assert np.array_equal(
        auroc_per_class(probs, labels), auroc_per_class(probs[shuffled], labels[shuffled]), equal_nan=True
    )
