"""The cluster bootstrap against a naive loop, its edge rules, and a look at what it covers."""

from __future__ import annotations

import warnings
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from medfl.metrics.auroc import auroc_per_class, mean_auroc
from medfl.metrics.calibration import score_sums
from medfl.metrics.intervals import (
    cluster_bootstrap,
    group_support,
    multiplicities,
    perfect_bound,
    reflected_interval,
)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def random_case(seed: int, n_groups: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rounded scores of 4 classes (the last one absent), groups of uneven size holding several classes."""
    rng = np.random.default_rng(seed)
    group = np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, 60)])
    labels = rng.integers(0, 3, len(group))
    probs = softmax(1.2 * np.eye(4)[labels] + rng.normal(size=(len(group), 4))).round(2)
    return probs, labels, group


def naive_aurocs(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    values = []
    for c in range(probs.shape[1]):
        positive = labels == c
        both = positive.any() and not positive.all()
        values.append(roc_auc_score(positive, probs[:, c]) if both else np.nan)
    return np.array(values)


@pytest.mark.parametrize("seed", range(3))
def test_against_a_naive_loop(seed: int) -> None:
    """Same draws, every resample written out patch by patch and measured by scikit-learn."""
    probs, labels, group = random_case(seed)
    resamples = 80
    ours = cluster_bootstrap(probs, labels, group, 12, resamples=resamples, seed=seed)
    drawn = multiplicities(np.random.default_rng(seed), 12, resamples).astype(int)
    per_class, means, briers, eces = [], [], [], []
    for times in drawn:
        rows = np.concatenate([np.flatnonzero(group == g) for g in range(12) for _ in range(times[g])])
        values = naive_aurocs(probs[rows], labels[rows])
        per_class.append(values)
        means.append(np.nanmean(values))
        sums = score_sums(probs[rows], labels[rows])
        briers.append(float(sums.brier()))
        eces.append(float(sums.ece()))
    assert ours.auroc == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=1e-12)
    for c in range(3):
        assert ours.auroc_per_class[c] == pytest.approx(
            np.nanpercentile(np.array(per_class)[:, c], [2.5, 97.5]), abs=1e-12
        )
    assert ours.auroc_per_class[3] is None
    assert ours.brier == pytest.approx(np.percentile(briers, [2.5, 97.5]), abs=1e-12)
    point = float(score_sums(probs, labels).ece())
    low, high = 2 * point - np.percentile(eces, [97.5, 2.5])
    assert ours.ece == pytest.approx((max(0.0, low), max(point, high)), abs=1e-12)


def test_draws_are_of_whole_groups_and_unbiased() -> None:
    drawn = multiplicities(np.random.default_rng(0), 9, 4000)
    assert (drawn.sum(axis=1) == 9).all()
    assert np.abs(drawn.mean(axis=0) - 1).max() < 0.07
    assert drawn.var(axis=0).mean() == pytest.approx(8 / 9, abs=0.05)  # binomial(9, 1/9)


def test_deterministic_in_the_seed_and_blind_to_the_order_of_patches() -> None:
    probs, labels, group = random_case(5)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    first = cluster_bootstrap(probs, labels, group, 12, resamples=50, seed=3)
    again = cluster_bootstrap(probs[shuffled], labels[shuffled], group[shuffled], 12, resamples=50, seed=3)
    assert first.auroc == again.auroc
    assert first.ece == pytest.approx(again.ece, abs=1e-12)
    assert first.auroc != cluster_bootstrap(probs, labels, group, 12, resamples=50, seed=4).auroc


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, labels, group = random_case(6)
    whole = cluster_bootstrap(probs, labels, group, 12, resamples=60)
    monkeypatch.setattr("medfl.metrics.intervals.CHUNK_ELEMENTS", 7 * len(labels))
    assert cluster_bootstrap(probs, labels, group, 12, resamples=60) == whole


@pytest.mark.parametrize("seed", range(20))
def test_every_interval_contains_its_point_estimate(seed: int) -> None:
    n_groups = 2 + seed % 6
    probs, labels, group = random_case(seed, n_groups)
    ours = cluster_bootstrap(probs, labels, group, n_groups, resamples=60, seed=seed)
    sums = score_sums(probs, labels)
    per_class = auroc_per_class(probs, labels)
    pairs = [
        (ours.auroc, mean_auroc(per_class)),
        *zip(ours.auroc_per_class, per_class, strict=True),
        (ours.balanced_accuracy, sums.balanced_accuracy()),
        (ours.ece, sums.ece()),
        (ours.classwise_ece, sums.classwise_ece()),
        (ours.brier, sums.brier()),
        (ours.nll, sums.nll()),
    ]
    assert sum(interval is not None for interval, _ in pairs) >= 5
    for interval, point in pairs:
        if interval is not None:
            assert 0.0 <= interval[0] <= float(point) <= interval[1]


@pytest.mark.parametrize("trials", [1, 5, 40])
def test_perfect_bound_is_the_exact_binomial_one(trials: int) -> None:
    exact = binomtest(trials, trials).proportion_ci(0.95, method="exact")
    assert float(perfect_bound(trials)) == pytest.approx(exact.low, abs=1e-9)


def test_perfect_scores_get_the_bound_of_their_groups_and_inverted_ones_its_mirror() -> None:
    # 4 groups of class 0, 6 of class 1, two patches each: min(4, 6, 10 // 2) = 4 independent pairs
    group = np.repeat(np.arange(10), 2)
    labels = (group >= 4).astype(np.int64)
    right = cluster_bootstrap(np.eye(2)[labels], labels, group, 10, resamples=50)
    wrong = cluster_bootstrap(np.eye(2)[1 - labels], labels, group, 10, resamples=50)
    low = 0.025 ** (1 / 4)
    assert right.auroc == (pytest.approx(low), 1.0)
    assert right.auroc_per_class == ((pytest.approx(low), 1.0),) * 2
    assert wrong.auroc == (0.0, pytest.approx(1 - low))
    assert right.balanced_accuracy == (pytest.approx((low + 0.025 ** (1 / 6)) / 2), 1.0)
    assert wrong.balanced_accuracy == (0.0, pytest.approx(1 - (low + 0.025 ** (1 / 6)) / 2))


def test_groups_with_both_sides_make_half_as_many_pairs() -> None:
    group = np.repeat(np.arange(6), 2)
    labels = np.tile([0, 1], 6)
    support = group_support(labels, group, 6, 3)
    assert support.positive.tolist() == [6, 6, 0]
    assert support.negative.tolist() == [6, 6, 6]
    assert support.pairs().tolist() == [3, 3, 0]


@pytest.mark.parametrize(
    ("labels", "few"),
    [
        ([0, 0, 0, 0, 0, 1, 1, 1, 1, 1], False),  # five groups on both sides
        ([0, 0, 0, 0, 0, 0, 1, 1, 1, 1], True),  # four of class 1
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], False),  # no class supported: only the total counts
    ],
)
def test_few_groups(labels: list[int], few: bool) -> None:
    assert group_support(np.array(labels), np.arange(10), 10, 2).few() is few
    assert group_support(np.array(labels[:4]), np.arange(4), 4, 2).few() is True


def test_one_group_has_no_interval_and_one_group_on_a_side_no_auroc_interval() -> None:
    probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    labels = np.array([0, 1, 1, 1, 1])
    alone = cluster_bootstrap(probs, labels, np.zeros(5, dtype=np.intp), 1, resamples=20)
    assert (alone.auroc, alone.brier, alone.ece) == (None, None, None)
    one_positive = cluster_bootstrap(probs, labels, np.arange(5), 5, resamples=20)
    assert (one_positive.auroc, one_positive.auroc_per_class) == (None, (None, None))
    assert one_positive.brier is not None


def test_one_class_site_has_no_auroc_interval_and_no_warning() -> None:
    probs, _, group = random_case(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = cluster_bootstrap(probs, np.full(len(group), 2), group, 12, resamples=30)
    assert ours.auroc is None
    assert ours.auroc_per_class == (None,) * 4
    assert ours.balanced_accuracy is not None


def test_reflected_interval_takes_the_bias_off() -> None:
    values = np.linspace(0.05, 0.15, 101)  # resampled about .10 where the figure itself is .06
    low, high = reflected_interval(0.06, values)
    assert low == 0.0
    assert high == pytest.approx(2 * 0.06 - np.percentile(values, 2.5))


def test_groups_are_what_makes_the_interval_cover() -> None:
    """40 + 40 groups of 6 patches, correlation .5 within a group, AUROC .80 known in closed form.

    80 repeats: coverage has a standard error of 2 to 5 points, so the bounds here are wide.
    """
    rng = np.random.default_rng(11)
    delta = NormalDist().inv_cdf(0.8) * 2**0.5
    n_groups, size, repeats = 80, 6, 80
    unit = np.repeat(np.arange(n_groups), size)
    labels = (unit < 40).astype(np.int64)
    hits = {"groups": 0, "patches": 0}
    for _ in range(repeats):
        score = rng.normal(size=n_groups)[unit] * 0.5**0.5 + rng.normal(size=len(unit)) * 0.5**0.5
        p = 1 / (1 + np.exp(-(score + delta * labels)))
        for kind, group in (("groups", unit), ("patches", np.arange(len(unit)))):
            interval = cluster_bootstrap(
                np.stack([1 - p, p], axis=1), labels, group, int(group.max()) + 1, resamples=100
            ).auroc
            assert interval is not None
            hits[kind] += interval[0] <= 0.8 <= interval[1]
    assert hits["groups"] / repeats > 0.87
    assert hits["patches"] / repeats < 0.80
