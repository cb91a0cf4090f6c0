"""Calibration error without its noise, and the noise alone: by hand, and of models that are calibrated by making."""

import math

import numpy as np
import pytest

from medfl.metrics.calibration import CalibrationBins, group_sums
from medfl.metrics.clustered_calibration import (
    clustered_debiased_ece,
    clustered_squared_error,
    design_effect,
    noise_of_ece,
)
from medfl.metrics.measure import measure
from medfl.metrics.small_cells import SmallCells


def bins(count, confidence, correct):
    return CalibrationBins(*(np.array(part, dtype=float) for part in (count, confidence, correct)))


def calibrated(seed, groups, size, same):
    """Bins of a model whose probabilities are the truth; with `same` the patches of a group are one patch."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size)
    logits = rng.normal(0, 1.5, (groups, 3))[group] if same else rng.normal(0, 1.5, (groups * size, 3))
    weights = np.exp(logits)
    probs = weights / weights.sum(axis=1, keepdims=True)
    draw = rng.random(groups)[group] if same else rng.random(groups * size)
    labels = (probs.cumsum(axis=1) < draw[:, None]).sum(axis=1).clip(0, 2)
    return group_sums(probs, labels, group, groups).top


def test_by_hand():
    """Two groups of two patches in one bin, one more of a third in another."""
    by_group = bins([[2, 0], [2, 0], [0, 1]], [[1.6, 0], [1.4, 0], [0, 0.9]], [[2, 0], [0, 0], [0, 1]])
    gap = (2 - 3.0) / 4
    variance = 2 / 1 * ((0.4 - gap * 2) ** 2 + (-1.4 - gap * 2) ** 2) / 16
    assert clustered_squared_error(by_group) == pytest.approx((gap**2 - variance) * 4 / 5)
    assert clustered_debiased_ece(by_group) == 0.0
    total = (0.4 - 1.4 + 0.1) / 5
    own = (0.4 - 2 * total) ** 2 + (-1.4 - 2 * total) ** 2 + (0.1 - total) ** 2
    effect = 3 / 2 * own / (4 * 0.75 * 0.25 + 0.9 * 0.1)
    assert design_effect(by_group) == pytest.approx(min(effect, 5 / 3))
    spread = [4 * math.sqrt(0.75 * 0.25 / max(2, 4 / (5 / 3))), math.sqrt(0.9 * 0.1 / 1)]
    assert noise_of_ece(by_group) == pytest.approx(math.sqrt(2 / math.pi) * sum(spread) / 5)


def test_nothing_tells_of_the_noise_of_one_group():
    one = bins([[3, 1]], [[2.5, 0.9]], [[2, 1]])
    assert math.isnan(clustered_debiased_ece(one))
    assert 0 < noise_of_ece(one) < 1
    empty = bins(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 2)))
    assert math.isnan(noise_of_ece(empty))
    assert math.isnan(clustered_debiased_ece(empty))


@pytest.mark.parametrize(("groups", "size", "same"), [(6, 8, True), (20, 8, True), (98, 8, True), (60, 8, False)])
def test_a_calibrated_model_has_the_ece_of_the_noise_and_no_more(groups, size, same):
    """ECE is the noise's size; without it nothing is left, also where the patches of a group are alike."""
    drawn = [calibrated(seed, groups, size, same) for seed in range(150)]
    ece = np.mean([float(own.map(lambda sums: sums.sum(axis=0)).ece()) for own in drawn])
    squared = [value for value in map(clustered_squared_error, drawn) if not math.isnan(value)]
    assert np.mean([noise_of_ece(own) for own in drawn]) == pytest.approx(ece, rel=0.25)
    assert abs(np.mean(squared)) < 3 * np.std(squared) / math.sqrt(len(squared)) + 1e-3
    by_patch = np.mean([float(own.map(lambda sums: sums.sum(axis=0)).squared_error()) for own in drawn])
    if same:  # what patches as independent draws leave of the noise
        assert by_patch > 5 * abs(np.mean(squared))
        assert by_patch > 0.5 * ece**2
    assert ece > 0.04


def test_of_a_miscalibrated_model_its_size_is_left():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(400), 3)
    right = rng.random(1200) < 0.7
    probs = np.where(right[:, None], [0.9, 0.1], [0.9, 0.1])
    top = group_sums(probs, np.where(right, 0, 1), group, 400).top
    assert clustered_debiased_ece(top) == pytest.approx(0.2, abs=0.03)


def test_a_site_tells_both_and_a_site_of_few_patients_neither():
    rng = np.random.default_rng(0)
    probs, labels = rng.dirichlet(np.ones(2), 40), rng.integers(0, 2, 40)
    group = np.arange(40) % 10
    measured = measure(probs, labels, group, ["a", "b"])
    top = group_sums(probs, labels, group, 10).top
    assert measured["debiased_ece"] == pytest.approx(clustered_debiased_ece(top))
    assert measured["ece_noise"] == pytest.approx(noise_of_ece(top))
    assert SmallCells(5, labels, group, ["a", "b"]).figures(measured, probs)["ece_noise"] == measured["ece_noise"]
    none = measure(probs[:0], labels[:0], group[:0], ["a", "b"])
    assert none["ece_noise"] is None
    assert none["debiased_ece"] is None
