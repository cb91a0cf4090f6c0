"""The clustered variance of AUROC against naive double loops, hand counts and the cluster bootstrap."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.stats import t as student

from medfl.metrics.auroc import auroc_per_class, compare, mean_auroc
from medfl.metrics.delong import clustered_delong
from medfl.metrics.intervals import multiplicities
from medfl.metrics.t_intervals import logit_interval


def components(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """V10, V01 and AUROC, one pair after the other (DeLong et al. 1988)."""
    x, y = scores[positive], scores[~positive]
    kernel = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in y] for a in x])
    return kernel.mean(axis=1), kernel.mean(axis=0), float(kernel.mean())


def obuchowski(scores: np.ndarray, positive: np.ndarray, group: np.ndarray) -> float:
    """Obuchowski 1997: S10 / m + S01 / n + 2 S11 / (m n), summing components within clusters one by one."""
    v10, v01, auroc = components(scores, positive)
    m, n = len(v10), len(v01)
    of_positive, of_negative = group[positive], group[~positive]
    i10, i01 = len(set(of_positive)), len(set(of_negative))
    s10 = s01 = s11 = 0.0
    for g in set(group):
        a = sum(v - auroc for v, own in zip(v10, of_positive, strict=True) if own == g)
        b = sum(v - auroc for v, own in zip(v01, of_negative, strict=True) if own == g)
        s10, s01, s11 = s10 + a * a, s01 + b * b, s11 + a * b
    s10, s01 = s10 * i10 / ((i10 - 1) * m), s01 * i01 / ((i01 - 1) * n)
    s11 *= math.sqrt(i10 / (i10 - 1) * i01 / (i01 - 1))  # = I / (I - 1) where every cluster holds both sides
    return s10 / m + s01 / n + 2 * s11 / (m * n)


def binary(scores: np.ndarray) -> np.ndarray:
    return np.stack([-scores, scores], axis=1)


@pytest.mark.parametrize("seed", range(10))
def test_groups_of_one_are_plain_delong(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 60))
    scores = rng.integers(0, 12, n) / 12  # ties are common
    positive = np.arange(n) < max(2, n // 3)
    v10, v01, _ = components(scores, positive)
    expected = v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01)
    ours = clustered_delong(binary(scores), positive.astype(int), np.arange(n), n)
    assert ours.per_class == pytest.approx([expected] * 2, abs=1e-14)


def test_by_hand() -> None:
    """Positives 3, 1 over negatives 2, 0: kernel [[1, 1], [0, 1]], V10 = 1, .5, V01 = .5, 1, variance 2 x .125 / 2."""
    ours = clustered_delong(binary(np.array([3.0, 1, 2, 0])), np.array([1, 1, 0, 0]), np.arange(4), 4)
    assert [*ours.per_class, ours.mean] == pytest.approx([0.125] * 3)
    assert ours.df_mean == pytest.approx(2.0)  # two strata of equal variance with one degree of freedom each


@pytest.mark.parametrize("mixed", [False, True], ids=["pure", "mixed"])
@pytest.mark.parametrize("seed", range(6))
def test_against_obuchowski_by_loops(seed: int, mixed: bool) -> None:
    rng = np.random.default_rng(seed)
    group = np.sort(np.concatenate([np.arange(10), np.arange(10), rng.integers(0, 10, 40)]))
    positive = group < 4
    if mixed:
        positive = rng.random(len(group)) < 0.4
        positive[np.unique(group, return_index=True)[1]] = True
        positive[np.unique(group, return_index=True)[1] + 1] = False
    scores = (rng.normal(size=len(group)) + rng.normal(size=10)[group] + positive).round(1)
    shuffled = rng.permutation(len(group))
    ours = clustered_delong(binary(scores)[shuffled], positive[shuffled].astype(int), group[shuffled], 10)
    assert ours.per_class == pytest.approx([obuchowski(scores, positive, group)] * 2, rel=1e-10)
    # Both classes of two say the same, so their mean is as uncertain as either: the covariance is right.
    assert ours.mean == pytest.approx(ours.per_class[0], rel=1e-10)


@pytest.mark.parametrize("shared", [False, True], ids=["a class per group", "classes share groups"])
def test_agrees_with_the_cluster_bootstrap(shared: bool) -> None:
    """120 groups, four classes: per class and for the mean, where classes are scored on the same patches."""
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(120), 6)
    labels = rng.integers(0, 4, len(group)) if shared else group % 4
    logits = 1.2 * np.eye(4)[labels] + rng.normal(size=(120, 4))[group] + rng.normal(size=(len(group), 4))
    scores = logits - logits.mean(axis=1, keepdims=True)
    ours = clustered_delong(scores, labels, group, 120)
    drawn = np.ascontiguousarray(multiplicities(rng, 120, 1500).T)
    resampled = np.stack([compare(scores[:, c], labels == c, group).auroc(drawn) for c in range(4)], axis=1)
    assert np.sqrt(ours.per_class) == pytest.approx(resampled.std(axis=0), rel=0.1)
    assert math.sqrt(ours.mean) == pytest.approx(mean_auroc(resampled).std(), rel=0.1)
    independent = math.sqrt(ours.per_class.sum()) / 4
    assert abs(independent / math.sqrt(ours.mean) - 1) > 0.1  # as if the classes had nothing in common


def test_more_alike_patches_do_not_shrink_the_variance() -> None:
    """Every patch five times over, copies in the group of their original: the same figure, the same variance."""
    rng = np.random.default_rng(0)
    labels, scores = np.arange(30) % 2, rng.normal(size=30)
    once = clustered_delong(binary(scores), labels, np.arange(30), 30)
    copied = clustered_delong(binary(np.repeat(scores, 5)), np.repeat(labels, 5), np.repeat(np.arange(30), 5), 30)
    ignored = clustered_delong(binary(np.repeat(scores, 5)), np.repeat(labels, 5), np.arange(150), 150)
    assert copied.mean == pytest.approx(once.mean, rel=1e-10)
    assert ignored.mean < 0.25 * once.mean


def test_degrees_of_freedom_are_welchs_for_pure_groups_and_groups_less_one_for_mixed() -> None:
    rng = np.random.default_rng(5)
    scores = rng.normal(size=36)
    labels = (np.arange(36) < 9).astype(int)
    ours = clustered_delong(binary(scores), labels, np.arange(36), 36)
    v10, v01, _ = components(scores, labels == 1)
    a, b = v10.var(ddof=1) / 9, v01.var(ddof=1) / 27
    assert ours.df_mean == pytest.approx((a + b) ** 2 / (a**2 / 8 + b**2 / 26))
    mixed = clustered_delong(binary(scores), np.tile([0, 1, 1], 12), np.repeat(np.arange(12), 3), 12)
    assert mixed.df_mean == pytest.approx(11)


def test_one_group_on_a_side_one_class_and_perfect_scores() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = clustered_delong(binary(np.array([3.0, 1, 2, 0])), np.array([1, 1, 0, 0]), np.array([0, 0, 1, 2]), 3)
        assert np.isnan([*alone.per_class, alone.mean, *alone.df_per_class, alone.df_mean]).all()
        one_class = clustered_delong(binary(np.arange(4.0)), np.zeros(4, dtype=int), np.arange(4), 4)
        assert np.isnan([*one_class.per_class, one_class.mean]).all()
        for sign in (1, -1):
            perfect = clustered_delong(binary(sign * np.arange(6.0)), np.repeat([0, 1], 3), np.arange(6), 6)
            assert (perfect.per_class.tolist(), perfect.mean) == ([0.0, 0.0], 0.0)
            assert math.isnan(perfect.df_mean)


def test_a_class_with_one_group_leaves_the_mean_of_the_others() -> None:
    rng = np.random.default_rng(2)
    labels = np.array([0, 1] * 10 + [2, 2])
    group = np.array([*range(20), 20, 20])
    scores = rng.normal(size=(22, 4))
    ours = clustered_delong(scores, labels, group, 21)
    assert np.isnan(ours.per_class).tolist() == [False, False, True, True]
    assert ours.mean > 0


@pytest.mark.parametrize(("point", "se", "df"), [(0.8, 0.05, 12.3), (0.99, 0.02, 7.0), (0.5, 0.1, 1e6)])
def test_logit_interval_against_scipy(point: float, se: float, df: float) -> None:
    half = student.ppf(0.975, df) * se / (point * (1 - point))
    odds = point / (1 - point)
    expected = [odds * math.exp(s * half) / (1 + odds * math.exp(s * half)) for s in (-1, 1)]
    assert logit_interval(point, se, df, 0.0) == pytest.approx(expected, abs=1e-4)


def test_logit_interval_at_the_ends_and_without_spread() -> None:
    assert logit_interval(1.0, 0.0, math.nan, 0.7) == (0.7, 1.0)
    assert logit_interval(0.0, 0.0, math.nan, 0.7) == (0.0, pytest.approx(0.3))
    assert logit_interval(0.5, 0.0, math.nan, 0.7) is None
    assert logit_interval(0.999, 50.0, 1.0, 0.7) == (0.0, 1.0)


def test_order_of_scores_is_all_that_counts() -> None:
    rng = np.random.default_rng(9)
    labels, group, scores = rng.integers(0, 3, 60), np.arange(60) // 3, rng.normal(size=(60, 3))
    ours = clustered_delong(scores, labels, group, 20)
    assert np.array_equal(ours.per_class, clustered_delong(np.exp(scores), labels, group, 20).per_class)
    renumbered = clustered_delong(scores, labels, 19 - group, 20)
    assert renumbered.mean == pytest.approx(ours.mean, rel=1e-12)
    assert np.isfinite(auroc_per_class(scores, labels)).all()
