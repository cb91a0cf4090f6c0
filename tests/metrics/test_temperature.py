"""Temperature from sums: equal to the central fit whatever the sites hold, and a stated answer where there is none."""

import json

import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from sklearn.metrics import log_loss

from medfl.metrics.temperature import (
    ENOUGH_GROUPS,
    HOTTEST,
    POINTS,
    TemperatureSums,
    fit_temperature,
    temperature_sums,
)


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def draw(seed, n=200, classes=4, scale=1.0, skill=1.0):
    """(logits, labels) of a model with some skill, whose logits are `scale` times too large."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return scale * (rng.normal(size=(n, classes)) + skill * np.eye(classes)[labels]), labels


class Sites:
    """Patches dealt to sites that answer with sums, over a line that carries JSON; remembers what it was asked."""

    def __init__(self, logits, labels, cuts=()):
        self.parts = list(zip(np.split(logits, cuts), np.split(labels, cuts), strict=True))
        self.asked = []

    def __call__(self, temperatures):
        self.asked.append(temperatures)
        sums = [temperature_sums(z, y, temperatures).to_lists() for z, y in self.parts]
        first, *rest = (TemperatureSums.from_lists(json.loads(json.dumps(part))) for part in sums)
        for other in rest:
            first += other
        return first


def fitted(logits, labels, cuts=()):
    return fit_temperature(Sites(logits, labels, cuts))


# ---------------------------------------------------------------------------------------------------------- the sums


def test_one_patch_by_hand():
    # Logits (2, 0), truth 0: L(b) = log(1 + exp(-2b)), p_1 = 1 / (1 + exp(2b)), L' = -2 p_1, L'' = 4 p_1 (1 - p_1).
    sums = temperature_sums(np.array([[2.0, 0.0]]), np.array([0]), (1.0, 0.5))
    for k, b in enumerate((1.0, 2.0)):
        p = 1 / (1 + np.exp(2 * b))
        assert sums.nll[k] == pytest.approx(np.log1p(np.exp(-2 * b)))
        assert sums.slope[k] == pytest.approx(-2 * p)
        assert sums.curvature[k] == pytest.approx(4 * p * (1 - p))
    assert sums.n == 1


def test_nll_is_scikit_learns_and_its_derivatives_are_differences():
    logits, labels = draw(1)
    step = 1e-4
    for b in (0.3, 1.0, 2.5):
        sums = temperature_sums(logits, labels, tuple(1 / (b + np.array([-step, 0, step]))))
        central = len(labels) * log_loss(labels, softmax(logits * b), labels=range(4))
        assert sums.nll[1] == pytest.approx(central, rel=1e-9)
        assert sums.slope[1] == pytest.approx((sums.nll[2] - sums.nll[0]) / (2 * step), rel=1e-5)
        assert sums.curvature[1] == pytest.approx((sums.slope[2] - sums.slope[0]) / (2 * step), rel=1e-5)
        assert (np.diff(sums.slope) > 0).all()


def test_sums_of_two_sites_are_the_sums_of_their_patches():
    logits, labels = draw(2)
    whole = temperature_sums(logits, labels, (0.5, 1.0, 3.0))
    parts = Sites(logits, labels, (0, 17, 120))((0.5, 1.0, 3.0))
    for name in ("nll", "slope", "curvature"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)
    assert parts.n == whole.n == 200


def test_huge_logits_do_not_overflow_and_a_constant_added_to_a_patch_changes_nothing():
    logits, labels = draw(3, n=50)
    shift = np.random.default_rng(0).normal(size=(50, 1)) * 1e3
    for name in ("nll", "slope", "curvature"):
        plain, moved = (getattr(temperature_sums(z, labels, (0.7,)), name) for z in (logits, logits + shift))
        np.testing.assert_allclose(moved, plain, rtol=1e-9)
    sums = temperature_sums(logits * 1e6, labels, (0.05,))
    assert np.isfinite([sums.nll, sums.slope, sums.curvature]).all()


@pytest.mark.parametrize(("bad", "said"), [(np.nan, "1 of 8 logits"), (np.inf, "1 of 8 logits")])
def test_logits_that_are_not_finite_are_refused(bad, said):
    logits = np.zeros((2, 4))
    logits[1, 2] = bad
    with pytest.raises(ValueError, match=said):
        temperature_sums(logits, np.zeros(2, dtype=int), (1.0,))
    with pytest.raises(ValueError, match="above 0"):
        temperature_sums(np.zeros((2, 4)), np.zeros(2, dtype=int), (1.0, 0.0))


# ----------------------------------------------------------------------------------------------------------- the fit


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_the_central_fit_in_two_messages(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 7))
    logits, labels = draw(seed, int(rng.integers(40, 300)), classes, float(np.exp(rng.normal())), 1.0)
    cuts = np.sort(rng.integers(0, len(labels), 3))  # sites of any size, none or one patch among them
    sites = Sites(logits, labels, cuts)
    fit = fit_temperature(sites)

    missing = max(0, ENOUGH_GROUPS - len(labels))

    def slope(b):
        return temperature_sums(logits, labels, (1 / b,)).slope[0] + missing * (1 - 1 / b)

    b = brentq(slope, 1 / HOTTEST, HOTTEST, xtol=1e-14)
    assert fit.temperature == pytest.approx(1 / b, rel=1e-6)
    assert (fit.bound, fit.groups, fit.pulled) == (None, len(labels), missing > 0)
    assert fit.patches == len(labels)
    assert fit.nll_before == pytest.approx(log_loss(labels, softmax(logits), labels=range(classes)), rel=1e-9)
    assert fit.nll_after == pytest.approx(log_loss(labels, softmax(logits * b), labels=range(classes)), rel=1e-7)
    assert [len(asked) for asked in sites.asked] == [POINTS, POINTS]


def test_equal_to_lbfgs_on_all_logits():
    logits, labels = draw(7, n=500, classes=5, scale=2.5)

    def loss(log_t):
        return log_loss(labels, softmax(logits / np.exp(log_t)), labels=range(5))

    central = minimize(loss, 0.0, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9})
    fit = fitted(logits, labels, (100, 130, 430))
    assert fit.temperature == pytest.approx(np.exp(central.x[0]), rel=1e-4)
    assert fit.nll_after == pytest.approx(central.fun, rel=1e-9)
    assert fit.nll_after < fit.nll_before


def test_logits_three_times_as_large_need_three_times_the_temperature():
    logits, labels = draw(8)
    assert fitted(3 * logits, labels).temperature == pytest.approx(3 * fitted(logits, labels).temperature, rel=1e-7)


def test_a_calibrated_model_stays():
    logits, labels = draw(9)
    once = fitted(logits, labels).temperature
    assert fitted(logits / once, labels).temperature == pytest.approx(1.0, abs=1e-7)


# ------------------------------------------------------------------------------------------------------- few groups


def pulled(logits, labels, groups, cuts=()):
    """The fit over sites that tell how many source groups they have."""
    parts = list(zip(*(np.split(values, cuts) for values in (logits, labels, groups)), strict=True))

    def ask(temperatures):
        first, *rest = (temperature_sums(z, y, temperatures, g) for z, y, g in parts)
        return sum(rest, first)

    return fit_temperature(ask)


def test_few_groups_pull_the_temperature_towards_one():
    logits, labels = draw(4, n=40, scale=0.2, skill=1.5)  # far from sure enough
    free = pulled(logits, labels, np.arange(40)).temperature
    few = [pulled(logits, labels, np.arange(40) % groups) for groups in (2, 10, 40)]
    assert free < 0.5
    assert [fit.groups for fit in few] == [2, 10, 40]
    assert 1 > few[0].temperature > few[1].temperature > few[2].temperature
    assert few[1].temperature > 0.6
    assert all(fit.pulled and fit.nll_after < fit.nll_before for fit in few)
    for fit in few:  # the loss that is stated is that of the patches, without what pulls
        after = temperature_sums(logits, labels, (fit.temperature,)).nll[0] / 40
        assert fit.nll_after == pytest.approx(after, rel=1e-7)
    again = pulled(logits, labels, np.arange(40) // 4, (8, 20))  # dealt to three sites, whole groups each
    assert again.temperature == pytest.approx(few[1].temperature, rel=1e-9)


def test_enough_groups_do_not_pull():
    logits, labels = draw(5, n=100, scale=2.0)
    fit = pulled(logits, labels, np.arange(100) // 2)
    assert (fit.groups, fit.pulled) == (ENOUGH_GROUPS, False)
    assert fit.temperature == pytest.approx(fitted(logits, labels).temperature, rel=1e-12)


# ------------------------------------------------------------------------------------------------------ no clear answer


def test_no_patch_at_all():
    fit = fitted(np.empty((0, 3)), np.empty(0, dtype=int))
    assert (fit.temperature, fit.nll_before, fit.nll_after, fit.patches, fit.bound) == (1.0, None, None, 0, None)


def test_perfect_separation_leaves_the_temperature_alone():
    logits, labels = draw(10, skill=12.0)
    assert (logits.argmax(axis=1) == labels).all()
    fit = fitted(logits, labels)
    assert (fit.temperature, fit.bound) == (1.0, "lower")
    assert fit.nll_after == fit.nll_before
    certain = fitted(100 * logits, labels)  # a loss of 0 that nothing lowers
    assert (certain.temperature, certain.bound) == (1.0, None)


def test_one_class_only():
    logits, _ = draw(11)
    logits[:, 0] += 0.7
    fit = fitted(logits, np.zeros(200, dtype=int))
    b = brentq(lambda b: temperature_sums(logits, np.zeros(200, dtype=int), (1 / b,)).slope[0], 0.05, 20)
    assert fit.temperature == pytest.approx(1 / b, rel=1e-6)
    right = logits[logits.argmax(axis=1) == 0]
    assert fitted(right, np.zeros(len(right), dtype=int)).bound == "lower"


def test_an_all_wrong_model_ends_at_the_upper_bound():
    logits, labels = draw(12, skill=-12.0)
    fit = fitted(logits, labels)
    assert (fit.temperature, fit.bound) == (HOTTEST, "upper")
    assert fit.nll_after < fit.nll_before


def test_an_all_wrong_model_of_few_groups_is_named_and_pulled():
    logits, labels = draw(12, n=20, skill=-4.0)
    fit = pulled(logits, labels, np.arange(20) % 5)
    assert (fit.bound, fit.pulled) == ("upper", True)
    assert 1 < fit.temperature < HOTTEST


def test_logits_without_any_difference_leave_the_temperature_at_one():
    fit = fitted(np.ones((10, 3)), np.arange(10) % 3)
    assert (fit.temperature, fit.bound) == (1.0, None)
    assert fit.nll_before == fit.nll_after == pytest.approx(np.log(3))
