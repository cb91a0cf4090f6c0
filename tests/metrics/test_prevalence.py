"""A class mix corrected by the confusion matrix is nearer the truth than counts of predictions."""

import numpy as np
import pytest

from medfl.metrics.prevalence import PredictedCounts, corrected_mix, corrected_prevalence

RECALL = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.02, 0.08, 0.9]])


def test_the_mix_behind_exact_shares_is_found():
    mix = np.array([0.2, 0.5, 0.3])
    assert corrected_mix(mix @ RECALL, RECALL) == pytest.approx(mix, abs=1e-3)


def test_corrected_is_nearer_the_truth_and_its_interval_holds_it():
    rng, mix, errors, inside = np.random.default_rng(4), np.array([0.02, 0.08, 0.9]), [], []
    for _ in range(6):
        labels = np.repeat(rng.choice(3, 120, p=mix), 4)
        called = np.array([rng.choice(3, p=RECALL[label]) for label in labels])
        known = np.repeat(np.arange(3), 200)
        confusion = np.zeros((3, 3))
        np.add.at(confusion, (known, [rng.choice(3, p=RECALL[label]) for label in known]), 1)
        counts = PredictedCounts.of(called, np.repeat(np.arange(120), 4), 3)
        point, low, high = corrected_prevalence(counts, confusion, np.full(3, 50.0))
        errors.append([np.abs(point - mix).sum(), np.abs(counts.shares - mix).sum()])
        inside += ((low <= mix) & (mix <= high)).tolist()
    corrected, raw = np.mean(errors, axis=0)
    assert corrected < 0.6 * raw
    assert np.mean(inside) >= 0.85


def test_counts_of_two_places_are_those_of_all_patches():
    rng = np.random.default_rng(5)
    called, group = rng.integers(0, 3, 60), rng.integers(0, 12, 60)
    halves = [PredictedCounts.of(called[rows], group[rows], 3) for rows in (group < 5, group >= 5)]
    assert (halves[0] + halves[1]).to_lists() == PredictedCounts.of(called, group, 3).to_lists()


def test_nothing_is_corrected_by_a_matrix_that_lacks_a_class():
    counts = PredictedCounts.of(np.zeros(6, dtype=int), np.arange(6), 2)
    assert corrected_prevalence(counts, np.array([[5.0, 1.0], [0.0, 0.0]]), np.ones(2)) is None
