"""Tests of endpoints against hand computations and independent ones."""

import numpy as np
import pytest
from scipy import stats

from medfl.study.inference import Estimate, holm, interaction
from medfl.study.pool import Pool

VALUES = [0.001, 0.002, 0.003]  # mean .002, standard error .001 / sqrt(3)


def tail(t):
    """P(T > t) with two degrees of freedom, in closed form."""
    return 0.5 - t / (2 * (2 + t * t) ** 0.5)


def test_one_sided_tests_by_hand():
    estimate = Estimate.of(VALUES)
    error = 0.001 / 3**0.5
    assert (estimate.n, estimate.mean, estimate.error) == (3, pytest.approx(0.002), pytest.approx(error))
    assert estimate.p_difference() == pytest.approx(2 * tail(0.002 / error))
    assert estimate.p_no_worse(0.005) == pytest.approx(tail(0.007 / error))
    assert estimate.p_equivalence(0.005) == pytest.approx(tail(0.003 / error)) == pytest.approx(0.017549, abs=1e-6)
    assert estimate.interval() == pytest.approx((0.002 - 4.302653 * error, 0.002 + 4.302653 * error), abs=1e-7)


def test_the_90_percent_interval_lies_inside_the_margins_where_equivalence_is_shown():
    rng = np.random.default_rng(1)
    for _ in range(20):
        estimate = Estimate.of(rng.normal(0.002, 0.005, 12).tolist())
        low, high = estimate.interval(0.9)
        assert (low > -0.005 and high < 0.005) == (estimate.p_equivalence(0.005) < 0.05)


def test_federations_that_all_say_the_same_are_certain():
    """FedNova with equal steps is FedAvg: no difference, and so equivalent."""
    same = Estimate.of([0.0] * 6)
    assert (same.p_difference(), same.p_equivalence(0.005), same.p_no_worse(0.005)) == (1.0, 0.0, 0.0)
    assert Estimate.of([0.5] * 6).p_difference() == 0.0
    assert Estimate.of([0.1]) is Estimate.of([]) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def drawn(federations=9, strata=3):
    """Gains [federations, strata] whose strata are correlated and of unlike variance."""
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(federations, 1))
    return (shared + 0.3 * rng.normal(size=(federations, strata))) * np.arange(1, strata + 1) + [0.0, 0.5, 1.0][:strata]


def test_the_standard_error_is_the_cluster_robust_one():
    """Of the mean of the strata's coefficients: stratum indicators, residuals summed by federation, n / (n - 1)."""
    rows = drawn()
    n, strata = rows.shape
    y, cluster, stratum = rows.ravel(), np.repeat(np.arange(n), strata), np.tile(np.arange(strata), n)
    x = np.eye(strata)[stratum]
    bread = np.linalg.inv(x.T @ x)
    residual = y - x @ (bread @ x.T @ y)
    scores = np.stack([x[cluster == c].T @ residual[cluster == c] for c in range(n)])
    covariance = n / (n - 1) * bread @ scores.T @ scores @ bread
    weights = np.full(strata, 1 / strata)
    own = {(str(s), str(f)): str(f) for f in range(n) for s in range(strata)}
    values = {(str(s), str(f)): rows[f, s] for f in range(n) for s in range(strata)}
    estimate = Estimate.of(list(Pool(own, [str(s) for s in range(strata)]).means(values).values()))
    assert estimate.error == pytest.approx(float(np.sqrt(weights @ covariance @ weights)))
    assert estimate.mean == pytest.approx(rows.mean())


def test_the_interaction_is_hotellings_in_any_basis():
    rows = drawn()
    helmert = np.array([[1, -1, 0], [0.5, 0.5, -1]])
    z = rows @ helmert.T
    t_squared = 9 * z.mean(0) @ np.linalg.inv(np.cov(z.T)) @ z.mean(0)
    found = interaction(rows)
    assert found.df == (2, 7)
    assert found.f == pytest.approx(t_squared * 7 / (2 * 8))
    assert found.p == pytest.approx(stats.f.sf(found.f, 2, 7))
    two = interaction(rows[:, :2])
    assert two.p == pytest.approx(stats.ttest_rel(rows[:, 0], rows[:, 1]).pvalue)


def test_what_has_no_interaction():
    assert interaction(drawn(strata=1)) is None
    assert interaction(drawn(federations=3)) is None
    assert interaction(np.zeros((9, 3))) is None
