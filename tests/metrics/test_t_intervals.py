"""t intervals against SciPy, and what they do at the ends."""

import math

import pytest
from scipy import stats

from medfl.metrics.t_intervals import log_interval, logit_interval, not_narrower, share_interval, t_quantile


@pytest.mark.parametrize("df", [3, 5, 9, 30, 1000])
def test_the_quantile_is_students(df):
    assert t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=2e-3)


def test_a_share_by_hand():
    low, high = logit_interval(0.8, 0.05, 9, 0.7)
    half = stats.t.ppf(0.975, 9) * 0.05 / (0.8 * 0.2)
    assert low == pytest.approx(1 / (1 + math.exp(-(math.log(4) - half))), rel=1e-4)
    assert high == pytest.approx(1 / (1 + math.exp(-(math.log(4) + half))), rel=1e-4)
    assert logit_interval(1.0, 0.0, 9, 0.7) == (0.7, 1.0)
    assert logit_interval(0.0, 0.0, 9, 0.7) == (0.0, pytest.approx(0.3))
    assert logit_interval(0.5, 0.0, 9, 0.7) is None


def test_a_share_is_never_surer_than_a_perfect_one():
    low, high = share_interval(0.99, 0.0001, 9, 0.7)
    assert high - low == pytest.approx(0.3)
    assert not_narrower((0.0, 0.1), 0.05, 0.7) == (0.0, pytest.approx(0.3))


def test_a_loss_by_hand():
    low, high = log_interval(0.5, 0.1, 9, 10.0)
    assert high / 0.5 == pytest.approx(0.5 / low)
    assert log_interval(0.5, 0.0, 9, 10.0) is None
