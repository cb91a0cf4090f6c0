"""Bins of equal mass: what they hold by hand, and a floor that a calibrated model reaches."""

import numpy as np
import pytest

from medfl.metrics.adaptive_bins import ADAPTIVE_BINS, equal_mass_cells, joined_bins, noise_bands, noise_floor
from medfl.metrics.figure_checks import curves_check
from medfl.metrics.site_figures import site_figures
from medfl.metrics.small_cells import SmallCells


def test_cells_hold_equal_shares_and_equal_values_stay_together():
    cells = equal_mass_cells(np.linspace(0.9, 1, 100))
    assert np.bincount(cells).tolist() == [10] * 10
    cells = equal_mass_cells(np.array([0.5] * 90 + [0.9] * 10))
    assert np.unique(cells[:90]).tolist() == [0]
    assert np.unique(cells[90:]).tolist() == [9]
    assert len(equal_mass_cells(np.empty(0))) == 0


def drawn(n=400, per_group=1, seed=0):
    """(probabilities, labels, groups) of a calibrated model of two classes that is sure of itself."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.9, 1, n)
    probs = np.stack([confidence, 1 - confidence], axis=1)
    return probs, (rng.uniform(size=n) > confidence).astype(int), np.arange(n) // per_group


def test_bins_of_a_site_by_hand():
    probs, labels, groups = drawn()
    bins = SmallCells(1, labels, groups, "ab").adaptive_bins(probs)
    assert bins["count"] == bins["groups"] == [40] * ADAPTIVE_BINS
    lowest = np.argsort(probs[:, 0])[:40]
    assert bins["confidence"][0] == pytest.approx(probs[lowest, 0].mean())
    assert bins["accuracy"][0] == pytest.approx((labels[lowest] == 0).mean())
    few = SmallCells(30, labels, groups // 4, "ab").adaptive_bins(probs)
    assert min(few["groups"]) >= 30
    assert sum(few["count"]) == 400
    none = SmallCells(1, labels[:0], groups[:0], "ab").adaptive_bins(probs[:0])
    assert none == {"count": [], "groups": [], "confidence": [], "accuracy": []}
    assert noise_floor(none) is None


def test_a_calibrated_model_reaches_the_floor_and_lies_in_the_bands():
    errors, floors, inside = [], [], []
    for seed in range(40):
        probs, labels, groups = drawn(seed=seed)
        bins = SmallCells(1, labels, groups, "ab").adaptive_bins(probs)
        gaps = np.abs(np.array(bins["accuracy"]) - bins["confidence"])
        errors.append((gaps * bins["count"]).sum() / 400)
        floors.append(noise_floor(bins))
        inside += [low <= a <= high for (low, high), a in zip(noise_bands(bins), bins["accuracy"], strict=True)]
    assert np.mean(errors) == pytest.approx(np.mean(floors), rel=0.1)
    assert np.mean(inside) > 0.9


def test_bins_of_equal_width_are_joined():
    bins = {
        "count": [0, 1, 2, 0, 57, 40],
        "confidence": [None, 0.2, 0.4, None, 0.8, 0.95],
        "accuracy": [None, 0.0, 0.5, None, 0.7, 1.0],
    }
    joined = joined_bins(bins)
    assert joined["count"] == [60, 40]
    assert joined["accuracy"] == pytest.approx([(0 + 1 + 57 * 0.7) / 60, 1.0])
    assert joined["groups"] == [None, None]
    assert noise_floor(joined) > 0
    assert joined_bins({"count": [0], "confidence": [None], "accuracy": [None]})["count"] == []


def test_what_a_site_sends_is_checked():
    probs, labels, groups = drawn(60, per_group=2)
    curves = site_figures(probs, probs, labels, groups, "ab").curves
    check = curves_check("ab")
    check(curves, "")
    after = curves["calibration"]["after"]
    for wrong in (
        after | {"groups": after["groups"][:-1]},
        after | {"accuracy": [2.0] * len(after["count"])},
        {name: values * 20 for name, values in after.items()},
        after | {"more": []},
        "x",
    ):
        with pytest.raises(ValueError, match="calibration"):
            check(curves | {"calibration": {"after": wrong, "before": after}}, "")
