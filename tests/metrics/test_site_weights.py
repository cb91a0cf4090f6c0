"""How loud a site is in a fit, by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from medfl.metrics.site_weights import pooled_sums
from medfl.metrics.temperature import fit_temperature, temperature_sums
from medfl.metrics.vector_scaling import scaling_sums


def site(seed, n, groups, scale):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return scale * (rng.normal(0, 1, (n, 3)) + np.eye(3)[labels]), labels, np.arange(n) % groups


SITES = [site(0, 400, 200, 1.0), site(1, 40, 40, 4.0), site(2, 0, 1, 1.0)]


@pytest.mark.parametrize("kind", ["temperature", "vector"])
def test_sums_of_two_sites_by_hand(kind):
    """400 and 40 patches count as 220 each; one without any says nothing."""
    at = (0.5, 2.0) if kind == "temperature" else ((1.0, 2.0, 1.0, 0.0, 0.1, 0.0),)
    parts = [(temperature_sums if kind == "temperature" else scaling_sums)(z, y, at, g) for z, y, g in SITES]
    same, patches = pooled_sums(parts, same=True), pooled_sums(parts, same=False)
    assert same.nll.tolist() == pytest.approx((parts[0].nll * 220 / 400 + parts[1].nll * 220 / 40).tolist())
    assert patches.nll.tolist() == pytest.approx((parts[0].nll + parts[1].nll).tolist())
    assert (same.n, patches.n) == (440, 440)
    assert (same.groups, patches.groups) == (int(4 / (1 / 200 + 1 / 40)), 240)
    slope = "slope" if kind == "temperature" else "hessian"
    wanted = getattr(parts[0], slope) * 0.55 + getattr(parts[1], slope) * 5.5
    assert getattr(same, slope) == pytest.approx(wanted)


def test_a_temperature_of_sites_that_count_the_same():
    """The minimum of the mean over sites of each site's mean loss; the small site is heard."""

    def fitted(same):
        return fit_temperature(lambda at: pooled_sums([temperature_sums(z, y, at, g) for z, y, g in SITES], same))

    def mean_loss(log_t):
        return sum(temperature_sums(z, y, (np.exp(log_t),)).nll[0] / len(y) for z, y, _ in SITES[:2])

    best = np.exp(minimize_scalar(mean_loss, bounds=(-2, 3), method="bounded", options={"xatol": 1e-10}).x)
    assert fitted(True).temperature == pytest.approx(best, rel=1e-5)
    assert fitted(True).temperature > 1.5 * fitted(False).temperature


def test_nothing_of_sites_without_patches():
    empty = temperature_sums(np.empty((0, 3)), np.empty(0, dtype=np.int64), (1.0,))
    assert pooled_sums([empty, empty], same=True).n == 0
