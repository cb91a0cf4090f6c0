"""A site's intervals against naive loops, and their edge rules. What they cover: tests/metrics/test_coverage.py."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from scipy.stats import t as student
from sklearn.metrics import balanced_accuracy_score, log_loss

from medfl.metrics.auroc import auroc_per_class, mean_auroc
from medfl.metrics.calibration import score_sums
from medfl.metrics.delong import clustered_delong
from medfl.metrics.group_support import GroupSupport, group_support
from medfl.metrics.intervals import (
    LeastError,
    calibration_interval,
    least_errors,
    multiplicities,
    perfect_bound,
    perfect_recall_bound,
    site_intervals,
    standard_error,
    tail,
)
from medfl.metrics.t_intervals import log_interval, logit_interval, share_interval, t_quantile


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


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(3))
def test_against_a_naive_loop(seed: int) -> None:
    """Same draws, every resample written out patch by patch and measured by scikit-learn."""
    probs, labels, group = random_case(seed)
    probs = np.maximum(probs, 0.01) / np.maximum(probs, 0.01).sum(axis=1, keepdims=True)
    resamples = 80
    ours = site_intervals(probs, labels, group, 12, resamples=resamples, seed=seed)
    drawn = multiplicities(np.random.default_rng(seed), 12, resamples).astype(int)
    shares, losses = [], []
    for times in drawn:
        rows = np.concatenate([np.flatnonzero(group == g) for g in range(12) for _ in range(times[g])])
        shares.append(balanced_accuracy_score(labels[rows], probs[rows].argmax(axis=1)))
        losses.append(log_loss(labels[rows], probs[rows], labels=range(4)))
    t = student.ppf(0.975, 11)
    share = balanced_accuracy_score(labels, probs.argmax(axis=1))
    half = t * np.std(shares) * math.sqrt(12 / 11) / (share * (1 - share))
    odds = share / (1 - share) * np.exp([-half, half])
    assert ours.balanced_accuracy == pytest.approx(odds / (1 + odds), abs=1e-5)
    loss = log_loss(labels, probs, labels=range(4))
    half = t * np.std(losses) * math.sqrt(12 / 11) / loss
    assert ours.nll == pytest.approx(loss * np.exp([-half, half]), rel=1e-4)


def test_auroc_intervals_are_those_of_the_clustered_variance() -> None:
    probs, labels, group = random_case(1)
    ours = site_intervals(probs, labels, group, 12, resamples=1)
    variance = clustered_delong(probs, labels, group, 12)
    assert ours.auroc_se == pytest.approx(math.sqrt(variance.mean))
    values = [*auroc_per_class(probs, labels)[:3], float(mean_auroc(auroc_per_class(probs, labels)))]
    variances, dfs = [*variance.per_class[:3], variance.mean], [*variance.df_per_class[:3], variance.df_mean]
    for value, var, df, found in zip(values, variances, dfs, [*ours.auroc_per_class[:3], ours.auroc], strict=True):
        half = student.ppf(0.975, df) * math.sqrt(var) / (value * (1 - value))
        odds = value / (1 - value) * np.exp([-half, half])
        assert found == pytest.approx(odds / (1 + odds), abs=1e-4)
    assert ours.auroc_per_class[3] is None


@pytest.mark.parametrize("df", [3, 4.5, 10, 60, 1e7])
def test_t_quantile_against_scipy(df: float) -> None:
    assert t_quantile(df) == pytest.approx(student.ppf(0.975, df), rel=2e-3)


def test_few_groups_widen_the_percentiles() -> None:
    assert tail(10) == pytest.approx(norm.cdf(-student.ppf(0.975, 9) * math.sqrt(10 / 9)), rel=1e-3)
    assert tail(100_000) == pytest.approx(0.025, rel=1e-3)


def test_standard_error_of_a_mean_is_the_textbook_one() -> None:
    values = np.random.default_rng(0).normal(size=12)
    resampled = multiplicities(np.random.default_rng(1), 12, 20_000) @ values / 12
    assert standard_error(resampled, 12) == pytest.approx(values.std(ddof=1) / math.sqrt(12), rel=0.02)
    assert standard_error(np.array([1.0, np.nan, 3.0]), 2) == pytest.approx(math.sqrt(2))
    assert standard_error(np.array([np.nan]), 2) == 0.0


@pytest.mark.parametrize("seed", range(4))
def test_calibration_interval_by_loops(seed: int) -> None:
    """The steps of docs/metrics.md one after the other, for a calibrated model (seed 0, 1) and one that is not."""
    rng = np.random.default_rng(seed)
    shape, resamples = (2, 3), 200
    gap = rng.normal(0, 0.002 if seed < 2 else 0.1, shape)
    drawn = gap + rng.normal(0, 0.01, (resamples, *shape))

    def error_of(gaps: np.ndarray) -> float:
        return sum(abs(gaps[c, b]) for c in range(2) for b in range(3)) / 2

    point, out = error_of(gap), tail(40)
    noise = [error_of(d - gap) for d in drawn]
    low = 0.0
    if point > np.quantile(noise, 1 - out):
        cleaned = np.zeros(shape)
        for c, b in np.ndindex(shape):
            left = gap[c, b] ** 2 - np.var(drawn[:, c, b])
            cleaned[c, b] = math.copysign(math.sqrt(max(left, 0.0)), gap[c, b])
        again = [error_of(cleaned + d - gap) for d in drawn]
        low = max(0.0, min(point, point - (np.quantile(again, 1 - out) - error_of(cleaned))))
    high = point + student.ppf(0.975, 39) * math.sqrt(40 / 39) * np.std([error_of(d) for d in drawn])
    ours = calibration_interval(gap, drawn, 40)
    assert ours == pytest.approx((low, high), rel=1e-5)
    assert (ours[0] == 0.0) is (seed < 2)


def test_draws_are_of_whole_groups_and_unbiased() -> None:
    drawn = multiplicities(np.random.default_rng(0), 9, 4000)
    assert (drawn.sum(axis=1) == 9).all()
    assert np.abs(drawn.mean(axis=0) - 1).max() < 0.07
    assert drawn.var(axis=0).mean() == pytest.approx(8 / 9, abs=0.05)  # binomial(9, 1/9)


def test_deterministic_in_the_seed_and_blind_to_the_order_of_patches() -> None:
    probs, labels, group = random_case(5)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    first = site_intervals(probs, labels, group, 12, resamples=50, seed=3)
    again = site_intervals(probs[shuffled], labels[shuffled], group[shuffled], 12, resamples=50, seed=3)
    assert first.auroc == pytest.approx(again.auroc, abs=1e-12)
    assert first.ece == pytest.approx(again.ece, abs=1e-12)
    assert first.ece != site_intervals(probs, labels, group, 12, resamples=50, seed=4).ece


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, labels, group = random_case(6)
    whole = site_intervals(probs, labels, group, 12, resamples=60)
    monkeypatch.setattr("medfl.metrics.intervals.CHUNK_ELEMENTS", 7 * 12)
    assert site_intervals(probs, labels, group, 12, resamples=60) == whole


@pytest.mark.parametrize("seed", range(20))
def test_every_interval_contains_its_point_estimate(seed: int) -> None:
    n_groups = 2 + seed % 6
    probs, labels, group = random_case(seed, n_groups)
    ours = site_intervals(probs, labels, group, n_groups, resamples=60, seed=seed)
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


def half_a_pair_misordered(m, k, df):
    """Lower end of the t interval of logit(1 - d), d half of one of m k pairs, whose DeLong error is sqrt(2) d."""
    d = 0.5 / (m * k)
    half = student.ppf(0.975, df) * math.sqrt(2) / (1 - d)
    return 1 / (1 + math.exp(half - math.log((1 - d) / d)))


def test_a_perfect_auroc_has_the_interval_of_half_a_pair_of_groups_misordered() -> None:
    # 4 groups of class 0, 6 of class 1, two patches each: 24 pairs, 4 / (1/3 + 1/5) = 7.5 degrees of freedom
    group = np.repeat(np.arange(10), 2)
    labels = (group >= 4).astype(np.int64)
    right = site_intervals(np.eye(2)[labels], labels, group, 10, resamples=50)
    wrong = site_intervals(np.eye(2)[1 - labels], labels, group, 10, resamples=50)
    low = half_a_pair_misordered(4, 6, 7.5)
    assert 0.6 < low < 0.7
    assert right.auroc == (pytest.approx(low, abs=1e-3), 1.0)
    assert right.auroc_per_class == ((pytest.approx(low, abs=1e-3), 1.0),) * 2
    assert wrong.auroc == (0.0, pytest.approx(1 - low, abs=1e-3))
    assert right.auroc_se is None
    assert right.auroc_least == LeastError(0.5 / 24, pytest.approx(math.sqrt(0.5) / 24), 7.5)


def test_the_least_error_is_delongs_of_single_patches() -> None:
    """One tie between a positive and a negative is half a pair: its variance by the library's own DeLong."""
    m, k = 6, 7
    scores = np.concatenate([np.arange(k), np.arange(k - 1, k - 1 + m)]).astype(float)
    labels = np.repeat([0, 1], [k, m])
    group = np.arange(m + k)
    variance = clustered_delong(np.stack([-scores, scores], axis=1), labels, group, m + k)
    least = least_errors(group_support(labels, group, m + k, 2))[1]
    assert least is not None
    assert least.error == 0.5 / (m * k)
    assert least.se == pytest.approx(math.sqrt(variance.per_class[1]))
    assert least.df == pytest.approx(variance.df_per_class[1])


@pytest.mark.parametrize(("m", "k"), [(2, 2), (2, 9), (3, 3), (5, 5), (6, 7), (10, 12), (40, 40)])
def test_a_perfect_auroc_is_neither_wider_nor_lower_than_one_with_errors(m: int, k: int) -> None:
    """From 0 misordered pairs of patches on: the lower end falls, and no interval is narrower than the perfect one."""
    group = np.repeat(np.arange(m + k), 6)
    labels = (group >= k).astype(np.int64)
    rng = np.random.default_rng([m, k])
    scores = np.where(labels == 1, 0.75, 0.25) + rng.uniform(-0.2, 0.2, len(labels))

    def interval(order: np.ndarray) -> tuple[float, float]:
        found = site_intervals(np.stack([1 - order, order], axis=1), labels, group, m + k, resamples=1).auroc
        assert found is not None
        return found

    low, high = interval(scores)
    assert high == 1.0
    for misordered in range(1, 6):
        worse = scores.copy()
        best, worst = np.argsort(worse[labels == 0])[-misordered:], np.argsort(worse[labels == 1])[:misordered]
        worse[np.flatnonzero(labels == 0)[best[0]]] = worse[labels == 1][worst[-1]] + 1e-6
        below, above = interval(worse)
        assert below <= low
        assert above - below >= (high - low) - 1e-12


def test_six_against_seven_groups_as_in_the_issue() -> None:
    low = half_a_pair_misordered(6, 7, 4 / (1 / 5 + 1 / 6))
    least = least_errors(GroupSupport(13, np.array([6]), np.array([7])))[0]
    assert least is not None
    assert least.bound == pytest.approx(low, abs=1e-3)
    assert least.bound > 0.75  # it was .541


def test_joint_bound_of_perfect_recalls() -> None:
    assert perfect_recall_bound(np.array([7])) == pytest.approx(float(perfect_bound(7)))
    # equal classes are as one of all groups; an unequal one puts the failures where few groups would show them
    assert perfect_recall_bound(np.array([4, 4, 4])) == pytest.approx(float(perfect_bound(12)))
    unequal = perfect_recall_bound(np.array([2, 50]))
    grid = np.linspace(1e-6, 1, 20001)
    other = np.minimum(1.0, np.exp((math.log(0.025) - 2 * np.log(grid)) / 50))
    assert unequal == pytest.approx(((grid + other) / 2)[2 * np.log(grid) >= math.log(0.025)].min(), abs=1e-3)
    assert unequal < float(perfect_bound(52))


def test_no_share_is_narrower_than_a_perfect_one() -> None:
    assert share_interval(1.0, 0.0, math.nan, 0.7) == (0.7, 1.0)
    low, high = share_interval(0.999, 1e-5, 9, 0.7)
    assert high - low == pytest.approx(0.3)
    assert high < 1.0
    assert share_interval(0.001, 1e-5, 9, 0.7) == (pytest.approx(1 - high), pytest.approx(1 - low))
    assert share_interval(0.8, 0.1, 9, 0.7) == logit_interval(0.8, 0.1, 9, 0.7)  # wide enough
    assert share_interval(0.8, 0.0, 9, 0.7) is None


def test_one_group_has_no_interval_and_one_group_on_a_side_no_auroc_interval() -> None:
    probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    labels = np.array([0, 1, 1, 1, 1])
    alone = site_intervals(probs, labels, np.zeros(5, dtype=np.intp), 1, resamples=20)
    assert (alone.auroc, alone.brier, alone.ece) == (None, None, None)
    one_positive = site_intervals(probs, labels, np.arange(5), 5, resamples=20)
    assert (one_positive.auroc, one_positive.auroc_per_class) == (None, (None, None))
    assert one_positive.brier is not None


def test_one_class_site_has_no_auroc_interval_and_no_warning() -> None:
    probs, _, group = random_case(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = site_intervals(probs, np.full(len(group), 2), group, 12, resamples=30)
    assert ours.auroc is None
    assert ours.auroc_per_class == (None,) * 4
    assert ours.balanced_accuracy is not None


def test_losses_stay_positive_and_below_their_largest_value() -> None:
    low, high = log_interval(0.5, 0.1, 9, 2.0)
    assert low * high == pytest.approx(0.25)
    assert log_interval(0.03, 12.0, 1, 27.0) == (0.0, pytest.approx(27.0))
    assert log_interval(0.5, 0.0, 9, 2.0) is None


def test_two_groups_of_uneven_size_have_wide_intervals_and_no_overflow() -> None:
    probs, labels = np.array([[1.0, 0.0]] * 500 + [[1.0, 0.0]]), np.array([0] * 500 + [1])
    ours = site_intervals(probs, labels, labels.copy(), 2, resamples=100)
    assert ours.nll == (pytest.approx(0.0, abs=1e-9), pytest.approx(12 * math.log(10)))
    assert ours.brier[1] == 2.0
    assert ours.auroc is None


def test_what_does_not_vary_has_no_interval() -> None:
    """Every group alike: a model that always answers the same, and one that is never wrong nor in doubt."""
    labels, group = np.tile([0, 1], 6), np.repeat(np.arange(6), 2)
    constant = site_intervals(np.full((12, 2), 0.5), labels, group, 6, resamples=30)
    assert (constant.auroc, constant.auroc_se, constant.ece, constant.brier) == (None, None, None, None)
    perfect = site_intervals(np.eye(2)[labels], labels, group, 6, resamples=30)
    assert (perfect.ece, perfect.classwise_ece, perfect.brier, perfect.nll) == (None, None, None, None)
    d, df = 0.5 / 30, 5  # 30 pairs of distinct groups, 6 groups in all
    half = student.ppf(0.975, df) * math.sqrt(2) / (1 - d)
    low = 1 / (1 + math.exp(half - math.log((1 - d) / d)))
    assert (perfect.auroc, perfect.auroc_se) == ((pytest.approx(low, abs=2e-3), 1.0), None)
