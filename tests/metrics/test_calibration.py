"""Calibration figures against scikit-learn and plain loops; merging against all patches at once."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, brier_score_loss, confusion_matrix, log_loss

from medfl.metrics.calibration import CalibrationBins, ScoreSums, bin_edges, group_sums, score_sums


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Probabilities [N, C] (some one-hot, some on bin edges), labels that often lack classes, bins."""
    rng = np.random.default_rng(seed)
    n, n_classes = int(rng.integers(1, 80)), int(rng.integers(2, 6))
    probs = rng.dirichlet(np.full(n_classes, 0.5), size=n)
    probs[rng.random(n) < 0.2] = np.eye(n_classes)[0]
    probs[rng.random(n) < 0.2] = np.eye(n_classes)[1] * 0.6 + np.eye(n_classes)[0] * 0.4
    present = rng.choice(n_classes, size=int(rng.integers(1, n_classes + 1)), replace=False)
    return probs, rng.choice(present, size=n), int(rng.integers(1, 20))


def naive_ece(confidence: np.ndarray, hit: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, eq. 3, one bin ((b-1)/B, b/B] after the other; zero belongs to the first."""
    error, edges = 0.0, np.linspace(0, 1, bins + 1)
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if edges[b] < c <= edges[b + 1] or (b == 0 and c == 0.0)]
        if inside:
            gap = np.mean([hit[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            error += len(inside) / len(confidence) * abs(gap)
    return error


@pytest.mark.parametrize("seed", range(30))
def test_against_scikit_learn_and_loops(seed: int) -> None:
    probs, labels, bins = random_case(seed)
    n_classes = probs.shape[1]
    every = list(range(n_classes))
    sums = score_sums(probs, labels, bins)
    predicted = probs.argmax(axis=1)
    assert sums.patches() == len(labels)
    assert np.array_equal(sums.confusion, confusion_matrix(labels, predicted, labels=every))
    assert float(sums.accuracy()) == pytest.approx(accuracy_score(labels, predicted), abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of predicted classes without patches
        assert float(sums.balanced_accuracy()) == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-12)
    if n_classes > 2:  # for two classes scikit-learn's own default is the one-sided score
        reference = brier_score_loss(labels, probs, labels=every, scale_by_half=False)
        assert float(sums.brier()) == pytest.approx(reference, abs=1e-12)
    clipped = np.maximum(probs[np.arange(len(labels)), labels], 1e-12)
    assert float(sums.nll()) == pytest.approx(-np.log(clipped).mean(), abs=1e-12)
    assert float(sums.ece()) == pytest.approx(naive_ece(probs.max(axis=1), predicted == labels, bins), abs=1e-12)
    by_class = [naive_ece(probs[:, c], labels == c, bins) for c in every]
    assert np.allclose(sums.classwise.ece(), by_class, atol=1e-12)
    assert float(sums.classwise_ece()) == pytest.approx(np.mean(by_class), abs=1e-12)


def test_nll_against_scikit_learn_and_the_clip() -> None:
    rng = np.random.default_rng(0)
    probs, labels = rng.dirichlet(np.ones(4), size=50), rng.integers(0, 4, 50)
    assert float(score_sums(probs, labels).nll()) == pytest.approx(log_loss(labels, probs, labels=range(4)))
    certain_and_wrong = score_sums(np.array([[1.0, 0.0]]), np.array([1]))
    assert float(certain_and_wrong.nll()) == pytest.approx(12 * math.log(10))


def test_by_hand() -> None:
    """Three patches, two bins.

    probs (.8 .2), (.6 .4), (.3 .7), truth 0, 1, 1: hits yes, no, yes; all top probabilities in bin (.5, 1].
    ECE: |2 - (.8 + .6 + .7)| / 3 = .1 / 3. Class 0: bin (0, .5] holds .3, no hit: gap .3; bin (.5, 1] holds
    .8 and .6, one hit: gap .4; sum .7 / 3. Class 1 mirrors it: .7 / 3. Brier: 2 (.04 + .36 + .09) / 3.
    """
    sums = score_sums(np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]), np.array([0, 1, 1]), bins=2)
    assert float(sums.ece()) == pytest.approx(0.1 / 3)
    assert float(sums.classwise_ece()) == pytest.approx(0.7 / 3)
    assert float(sums.brier()) == pytest.approx(0.98 / 3)
    assert float(sums.nll()) == pytest.approx(-(math.log(0.8) + math.log(0.4) + math.log(0.7)) / 3)
    assert float(sums.balanced_accuracy()) == pytest.approx((1 + 0.5) / 2)
    assert sums.top.count.tolist() == [0, 3]
    assert np.isnan(sums.top.accuracy()[0])
    assert sums.top.confidence()[1] == pytest.approx(0.7)


def test_perfect_and_inverted_predictions() -> None:
    labels = np.array([0, 1, 2, 2])
    right, wrong = score_sums(np.eye(3)[labels], labels), score_sums(np.eye(3)[(labels + 1) % 3], labels)
    assert [float(f) for f in (right.ece(), right.classwise_ece(), right.brier(), right.nll())] == [0, 0, 0, 0]
    assert (float(right.balanced_accuracy()), float(wrong.balanced_accuracy())) == (1.0, 0.0)
    assert (float(wrong.ece()), float(wrong.brier())) == (1.0, 2.0)


def test_a_class_without_patches_counts_in_classwise_ece_but_not_in_balanced_accuracy() -> None:
    probs = np.tile([0.5, 0.25, 0.25], (4, 1))
    sums = score_sums(probs, np.array([0, 0, 1, 1]))
    assert np.allclose(sums.classwise.ece(), [0.0, 0.25, 0.25])
    assert float(sums.balanced_accuracy()) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_merging_sites_equals_all_patches_at_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probs, labels = rng.dirichlet(np.ones(5), size=200), rng.integers(0, 4, 200)
    site = rng.integers(0, 3, 200)
    merged = score_sums(probs[site == 0], labels[site == 0])
    for name in (1, 2):
        merged = merged + score_sums(probs[site == name], labels[site == name])
    at_once = score_sums(probs, labels)
    by_group = group_sums(probs, labels, site, 3)
    for figure in (ScoreSums.ece, ScoreSums.classwise_ece, ScoreSums.brier, ScoreSums.nll, ScoreSums.accuracy):
        assert float(figure(merged)) == pytest.approx(float(figure(at_once)), abs=1e-12)
        alone = score_sums(probs[site == 1], labels[site == 1])
        assert figure(by_group)[1] == pytest.approx(float(figure(alone)), abs=1e-12)
    assert np.array_equal(merged.top.count, at_once.top.count)


@pytest.mark.parametrize("seed", range(6))
def test_sites_merged_through_json_equal_all_patches_at_once(seed: int) -> None:
    """Random splits into sites, one of them empty: the pooled figures are the central ones to 1e-9."""
    rng = np.random.default_rng(seed)
    probs, labels, bins = random_case(100 + seed)
    site = rng.integers(1, 5, len(labels))  # site 0 has no patch
    merged = None
    for name in range(5):
        sent = json.loads(json.dumps(score_sums(probs[site == name], labels[site == name], bins).to_lists()))
        own = ScoreSums.from_lists(sent)
        merged = own if merged is None else merged + own
    central = score_sums(probs, labels, bins)
    for figure in (ScoreSums.ece, ScoreSums.classwise_ece, ScoreSums.brier, ScoreSums.nll, ScoreSums.balanced_accuracy):
        assert float(figure(merged)) == pytest.approx(float(figure(central)), abs=1e-9)
    assert np.array_equal(merged.confusion, central.confusion)
    assert np.array_equal(merged.classwise.count, central.classwise.count)
    assert np.abs(merged.top.gap()).sum() == pytest.approx(float(central.ece()), abs=1e-9)


def test_lists_lose_no_digit() -> None:
    probs, labels, _ = random_case(7)
    group = np.arange(len(labels)) % 3
    sums = group_sums(probs, labels, group, 3)  # with a leading axis
    back = ScoreSums.from_lists(json.loads(json.dumps(sums.to_lists())))
    for name in ("squared_error", "log_loss", "confusion"):
        assert np.array_equal(getattr(back, name), getattr(sums, name))
    for part in ("top", "classwise"):
        for name in ("count", "confidence_sum", "correct_sum"):
            assert np.array_equal(getattr(getattr(back, part), name), getattr(getattr(sums, part), name))


def test_resampling_sums_equals_repeating_patches() -> None:
    rng = np.random.default_rng(4)
    probs, labels, group = rng.dirichlet(np.ones(3), size=60), rng.integers(0, 3, 60), rng.integers(0, 7, 60)
    drawn = rng.multinomial(7, np.ones(7) / 7, size=5).astype(float)
    resampled = group_sums(probs, labels, group, 7).resample(drawn)
    for r in range(5):
        times = drawn[r][group].astype(int)
        repeated = score_sums(np.repeat(probs, times, axis=0), np.repeat(labels, times))
        for figure in (ScoreSums.ece, ScoreSums.classwise_ece, ScoreSums.brier, ScoreSums.balanced_accuracy):
            assert figure(resampled)[r] == pytest.approx(float(figure(repeated)), abs=1e-12)


def test_no_patches_are_nan_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = score_sums(np.empty((0, 3)), np.empty(0, dtype=np.int64))
        figures = (empty.ece(), empty.classwise_ece(), empty.brier(), empty.nll(), empty.balanced_accuracy())
    assert all(np.isnan(figure) for figure in figures)


def test_edges_are_equal_width() -> None:
    assert bin_edges(4).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_debiased_ece_by_hand() -> None:
    # Two bins of ten: (.3, .4] holds 4 patches of .35, 2 right; (.8, .9] 5 of .9, 3 right; a bin of one patch counts 0.
    # 4/10 [(.5 - .35)^2 - .25 / 3] + 5/10 [(.6 - .9)^2 - .24 / 4] = -.0243333 + .015 < 0
    bins = CalibrationBins(
        np.array([0, 0, 0, 4, 0, 1, 0, 0, 5, 0.0]),
        np.array([0, 0, 0, 1.4, 0, 0.55, 0, 0, 4.5, 0.0]),
        np.array([0, 0, 0, 2, 0, 1, 0, 0, 3, 0.0]),
    )
    assert float(bins.squared_error()) == pytest.approx(0.4 * (0.0225 - 0.25 / 3) + 0.5 * (0.09 - 0.06))
    worse = CalibrationBins(bins.count, bins.confidence_sum, np.array([0, 0, 0, 4, 0, 1, 0, 0, 0, 0.0]))
    assert float(worse.squared_error()) == pytest.approx(0.4 * 0.65**2 + 0.5 * 0.9**2)  # all or none right: no noise
    assert np.isnan(CalibrationBins(np.zeros(3), np.zeros(3), np.zeros(3)).squared_error())


def test_the_debiased_error_of_a_calibrated_model_is_0_on_average_and_that_of_another_its_size() -> None:
    rng = np.random.default_rng(1)
    square, plain, root = [], [], []
    for _ in range(300):
        probs = softmax(2.0 * rng.normal(size=(150, 4)))
        labels = (probs.cumsum(axis=1) > rng.random((150, 1))).argmax(axis=1)
        sums = score_sums(probs, labels)
        square.append(float(sums.top.squared_error()))
        plain.append(float(sums.ece()))
        root.append(float(sums.debiased_ece()))
    assert abs(np.mean(square)) < 3 * np.std(square) / 300**0.5
    assert np.mean(plain) > 0.07  # what noise alone makes of ECE
    assert np.median(root) < 0.02
    # Always sure at .9 and right in 70 %: the error is .2, on 50 patches as on many.
    square = []
    for _ in range(300):
        hit = rng.random(50) < 0.7
        one = score_sums(np.tile([0.9, 0.1], (50, 1)), (~hit).astype(np.int64))
        square.append(float(one.top.squared_error()))
    assert np.mean(square) == pytest.approx(0.04, abs=3 * np.std(square) / 300**0.5)


def test_debiased_ece_merges_as_ece_does() -> None:
    rng = np.random.default_rng(2)
    probs, labels = softmax(rng.normal(size=(80, 3))), rng.integers(0, 3, 80)
    both = score_sums(probs[:30], labels[:30]) + score_sums(probs[30:], labels[30:])
    assert float(both.debiased_ece()) == pytest.approx(float(score_sums(probs, labels).debiased_ece()), abs=1e-12)
