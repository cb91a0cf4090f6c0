"""Vector scaling from sums: equal to the central fit whatever the sites hold, and finite where there is no best one."""

import json
from functools import reduce
from operator import add

import numpy as np
import pytest
from scipy.optimize import minimize

from medfl.metrics.logit_calibration import Calibration
from medfl.metrics.temperature import ENOUGH_GROUPS, fit_temperature, temperature_sums
from medfl.metrics.vector_scaling import MESSAGES, ScalingSums, fit_scaling, scaling_sums


def data(seed=0, n=600, classes=4, scale=3.0):
    """Logits that are too large, of classes that are not alike, and true classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return scale * (rng.normal(0, 1, (n, classes)) + 1.2 * np.eye(classes)[labels]) + np.arange(classes), labels


class Sites:
    """Answers a fit from the sums of some sites, as JSON, and remembers what was asked."""

    def __init__(self, *parts):
        self.parts, self.asked = parts, []

    def __call__(self, points):
        self.asked.append(points)
        sums = [json.loads(json.dumps(scaling_sums(*part[:2], points, *part[2:]).to_lists())) for part in self.parts]
        return reduce(add, map(ScalingSums.from_lists, sums))


def numbers(calibration):
    return np.array([*calibration.scale, *calibration.bias])


def central(logits, labels, weight, t=1.0):
    """The minimum by scipy, without any of the code here."""
    classes = logits.shape[1]

    def loss(point):
        scale, bias = np.split(point, 2)
        u = logits * scale + bias
        total = np.logaddexp.reduce(u, axis=1)
        residual = np.exp(u - total[:, None]) - np.eye(classes)[labels]
        pull = (t * scale - 1 - np.log(t * scale)).sum() + (bias**2).sum() / 2
        slope = np.concatenate([(residual * logits).sum(0), residual.sum(0)])
        value = (total - u[np.arange(len(labels)), labels]).sum()
        return value + weight * pull, slope + weight * np.concatenate([t - 1 / scale, bias])

    bounds = [(1e-6, None)] * classes + [(None, None)] * classes
    start, options = np.repeat([1.0, 0.0], classes), {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 2000}
    return minimize(loss, start, jac=True, bounds=bounds, options=options).x


def test_derivatives_are_those_of_the_loss():
    logits, labels = data(n=30, classes=3)
    point, step = np.array([0.7, 1.2, 0.9, 0.1, -0.2, 0.3]), 1e-5
    sums = scaling_sums(logits, labels, [point])
    for j, unit in enumerate(np.eye(6)):
        around = scaling_sums(logits, labels, [point - step * unit, point + step * unit])
        assert sums.gradient[0, j] == pytest.approx(np.diff(around.nll)[0] / (2 * step), rel=1e-6, abs=1e-6)
        assert sums.hessian[0, j] == pytest.approx(np.diff(around.gradient, axis=0)[0] / (2 * step), rel=1e-5, abs=1e-4)


def test_the_temperatures_sums_are_the_same_ones():
    logits, labels = data(n=40)
    own = scaling_sums(logits, labels, [[0.5] * 4 + [0.0] * 4])
    assert own.nll[0] == pytest.approx(temperature_sums(logits, labels, (2.0,)).nll[0])


@pytest.mark.parametrize(("groups", "cuts"), [(600, ()), (600, (5, 300)), (60, (200,)), (3, (599,))])
def test_sites_together_fit_what_scipy_fits_to_all_patches(groups, cuts):
    """With every group at one site, whatever it holds; few groups pull, as loud as stated."""
    logits, labels = data()
    group = np.arange(600) * groups // 600
    order = [np.split(part, cuts) for part in (logits, labels, group)]
    sites = Sites(*zip(*order, strict=True))
    if groups == 60:
        assert len(set(np.split(group, cuts)[0]) & set(np.split(group, cuts)[1])) == 0
    fit = fit_scaling(sites, 4)
    assert numbers(fit.calibration) == pytest.approx(
        central(logits, labels, max(1, ENOUGH_GROUPS - fit.groups / 4)), abs=1e-6
    )
    assert fit.messages == len(sites.asked) <= MESSAGES
    assert fit.nll_after < fit.nll_before
    assert fit.pulled == (groups < 200)
    assert fit.patches == 600
    # Better than a temperature, since class by class is what is amiss.
    assert fit.nll_after < fit_temperature(lambda at: temperature_sums(logits, labels, at)).nll_after or groups < 200


def test_few_groups_pull_towards_a_temperature():
    logits, labels = data()
    group = np.arange(600) % 20
    fit = fit_scaling(Sites((logits, labels, group)), 4, temperature=2.5)
    assert numbers(fit.calibration) == pytest.approx(central(logits, labels, 45, t=2.5), abs=1e-6)


def test_sites_of_one_class_each():
    logits, labels = data()
    one = fit_scaling(Sites(*((logits[labels == c], labels[labels == c]) for c in range(4))), 4)
    assert numbers(one.calibration) == pytest.approx(central(logits, labels, 1.0), abs=1e-6)


def test_a_site_without_patches_changes_nothing():
    logits, labels = data()
    empty = (np.empty((0, 4)), np.empty(0, dtype=int))
    assert (
        fit_scaling(Sites((logits, labels), empty), 4).calibration
        == fit_scaling(Sites((logits, labels)), 4).calibration
    )
    none = fit_scaling(Sites(empty), 4)
    assert (none.calibration, none.patches, none.nll_before, none.messages) == (Calibration(), 0, None, 1)


def test_perfect_separation_leaves_logits_alone():
    labels = np.arange(300) % 3
    fit = fit_scaling(Sites((3.0 * np.eye(3)[labels], labels)), 3)
    assert (fit.calibration, fit.bound, fit.nll_after) == (Calibration(), "lower", fit.nll_before)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e3])
def test_what_has_no_best_stays_finite(scale):
    """A class no patch has, and one that all patches show perfectly, whatever the size of the logits."""
    logits, labels = data(n=200, classes=3, scale=scale)
    labels = np.where(labels == 2, 0, labels)
    fit = fit_scaling(Sites((logits, labels)), 3)
    assert np.isfinite(numbers(fit.calibration)).all()
    assert (np.abs(numbers(fit.calibration)) < 50).all()
    assert fit.nll_after <= fit.nll_before
    assert fit.messages <= MESSAGES


def test_few_groups_pull_towards_changing_nothing():
    logits, labels = data(n=80)
    far = [np.abs(numbers(fit_scaling(Sites((logits, labels, np.arange(80) % g)), 4).calibration)
                  - [1, 1, 1, 1, 0, 0, 0, 0]).sum() for g in (80, 8, 2)]  # fmt: skip
    assert far[0] > far[1] > far[2] > 0


def test_what_is_no_point_is_refused():
    logits, labels = data(n=9)
    with pytest.raises(ValueError, match="8 finite numbers for 4 classes"):
        scaling_sums(logits, labels, [[1.0] * 7])
    with pytest.raises(ValueError, match="1 of 36 logits"):
        scaling_sums(np.where(np.arange(36).reshape(9, 4) == 3, np.nan, logits), labels, [[1.0] * 8])
