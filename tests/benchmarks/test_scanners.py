"""Differences between methods at real scanners, over their patients."""

import dataclasses

import numpy as np
import pytest

from benchmarks.scanners import Measured, differences, mean_difference
from benchmarks.tables import Runs
from medfl.metrics.paired_figures import paired_figures
from medfl.study.compare_runs import ScoredSite

CLASSES = ("normal", "atypical")


def scored(seed, groups=12, each=5):
    """A site of 60 patches, the same but for what a model says of them."""
    groups = np.repeat(np.arange(groups), each)
    labels = np.random.default_rng(0).integers(2, size=len(groups))
    high = 1 / (1 + np.exp(-np.random.default_rng(seed).normal(labels - 0.5)))
    names = tuple(map(str, range(len(groups))))
    return ScoredSite(names, labels, groups, np.stack([1 - high, high], axis=1), 1)


def measured(*seeds):
    return [Measured.of(scored(seed), CLASSES) for seed in seeds]


def test_one_seed_is_what_medfl_compare_says():
    one, other = scored(1), scored(2)
    expected = paired_figures((one.probs, other.probs), one.labels, one.groups, CLASSES)["auroc"]
    found = mean_difference(measured(1), measured(2))
    assert found.difference == pytest.approx(expected.difference)
    assert found.interval() == pytest.approx(expected.interval())


def test_seeds_are_averaged_before_patients_vary():
    """The same seed twice says nothing more; different ones vary together by what is of the patients."""
    single, twice = mean_difference(measured(1), measured(2)), mean_difference(measured(1, 1), measured(2, 2))
    assert twice.interval() == pytest.approx(single.interval())
    both, second = mean_difference(measured(1, 3), measured(2, 4)), mean_difference(measured(3), measured(4))
    assert both.difference == pytest.approx((single.difference + second.difference) / 2)
    assert both.se < max(single.se, second.se)


def test_other_patches_are_refused():
    other = dataclasses.replace(scored(2), names=tuple("abc"))
    with pytest.raises(ValueError, match="same patches"):
        mean_difference(measured(1), [Measured.of(other, CLASSES)])


def test_without_run_folders_nothing_is_measured(tmp_path):
    assert Runs.load("mitosis").runs
    assert list(differences(tmp_path)) == []
