"""The mean AUROC over sites and its interval, by hand and with perfect sites."""

import math

import pytest
from scipy.stats import t as student

from medfl.metrics.group_figures import group_figures, mean_interval
from medfl.metrics.intervals import LeastError
from medfl.metrics.t_intervals import logit_interval


def site(auroc, se=None, df=None, pairs=None, **more):
    least = None if pairs is None else {"error": 0.5 / pairs, "se": math.sqrt(2) * 0.5 / pairs, "df": 10.0}
    return {"role": "held_out", "auroc": auroc, "auroc_se": se, "auroc_df": df, "auroc_least": least, **more}


def expit(x):
    return 1 / (1 + math.exp(-x))


def test_the_logit_interval_with_satterthwaites_degrees_of_freedom_by_hand():
    # se of the mean: sqrt(.03^2 + .04^2) / 2 = .025; shares of the variance 9/25 and 16/25;
    # 1 / df = (9/25)^2 / 8 + (16/25)^2 / 12, so df = 19.8
    df = 1 / ((9 / 25) ** 2 / 8 + (16 / 25) ** 2 / 12)
    half = student.ppf(0.975, df) * 0.025 / (0.85 * 0.15)
    logit = math.log(0.85 / 0.15)
    found = mean_interval([site(0.9, 0.03, 8.0), site(0.8, 0.04, 12.0)])
    assert found == pytest.approx([expit(logit - half), expit(logit + half)], abs=1e-5)


def test_one_site_has_its_own_interval():
    assert mean_interval([site(0.9, 0.03, 8.0)]) == list(logit_interval(0.9, 0.03, 8.0, 0.0))
    least = LeastError(1 / 72, math.sqrt(2) / 72, 10.0)
    assert mean_interval([site(1.0, pairs=36)]) == [least.bound, 1.0]


def test_a_perfect_site_does_not_leave_the_mean_without_an_interval():
    perfect, other = site(1.0, pairs=36), site(0.9, 0.06, 8.0, pairs=36)
    low, high = mean_interval([perfect, other])
    # 1/72 of error at the one site (half a pair of 36), .1 at the other; se sqrt(2 / 72^2 + .06^2) / 2
    centre, parts = 1 - (1 / 72 + 0.1) / 2, [2 / 72**2 / 4, 0.06**2 / 4]
    df = sum(parts) ** 2 / (parts[0] ** 2 / 10 + parts[1] ** 2 / 8)
    half = student.ppf(0.975, df) * math.sqrt(sum(parts))
    assert low == pytest.approx(expit(math.log(centre / (1 - centre)) - half / (centre * (1 - centre))), abs=1e-5)
    assert high == pytest.approx(expit(math.log(19) + half / (0.95 * 0.05)), abs=1e-5)
    assert low < 0.95 < high
    mirrored = mean_interval([site(0.0, pairs=36), site(0.1, 0.06, 8.0, pairs=36)])
    assert mirrored == pytest.approx([1 - high, 1 - low])


def test_no_mean_is_narrower_than_that_of_perfect_sites():
    low, high = mean_interval([site(1.0, pairs=36)] * 3)
    assert high == 1.0
    assert low > LeastError(1 / 72, math.sqrt(2) / 72, 10.0).bound  # three sites say more than one
    nearly = mean_interval([site(1.0, pairs=36)] * 2 + [site(0.9999, 1e-4, 9.0, pairs=36)])
    assert nearly[0] <= low
    assert nearly[1] - nearly[0] >= high - low - 1e-12
    for auroc in (0.5, 0.8, 0.99):
        below, above = mean_interval([site(auroc, 1e-6, 9.0, pairs=36)])
        assert below <= auroc <= above
        assert above - below >= 1 - LeastError(1 / 72, math.sqrt(2) / 72, 10.0).bound - 1e-12


def test_without_precision_there_is_no_interval():
    assert mean_interval([]) is None
    assert mean_interval([site(0.9, 0.03, 8.0), site(0.8)]) is None  # nothing varies, which is no precision
    assert mean_interval([site(1.0)]) is None  # measured by version 0.1
    assert mean_interval([site(0.9, 0.03)]) == list(logit_interval(0.9, 0.03, math.inf, 0.0))
    both = {"a": site(1.0, pairs=36, ece=0.1), "b": site(None)}
    assert group_figures(both, "held_out")["mean_auroc_ci"] == mean_interval([both["a"]])
