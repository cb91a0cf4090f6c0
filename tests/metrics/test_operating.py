"""Targets, operating points and ROC bands against scikit-learn and naive loops."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student
from sklearn.metrics import recall_score, roc_auc_score, roc_curve

from medfl.metrics.intervals import multiplicities, tail
from medfl.metrics.operating import operating_point
from medfl.metrics.roc import GRID, roc_band
from medfl.metrics.targets import target_scores, target_truth, targets

LC25000 = ("lung_aca", "lung_n", "lung_scc", "colon_aca", "colon_n")
MALIGNANT = ("lung_aca", "lung_scc", "colon_aca")


def random_case(seed: int, n_groups: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, truth of both sides, groups of uneven size that may hold both."""
    rng = np.random.default_rng(seed)
    group = np.concatenate([np.arange(n_groups), rng.integers(0, n_groups, 60)])
    positive = rng.random(len(group)) < 0.4
    positive[:2] = True, False
    scores = np.clip(0.25 * positive + rng.normal(0.4, 0.2, len(group)), 0, 1).round(2)
    return scores, positive, group


def json_ready(value: dict[str, Any]) -> bool:
    return json.loads(json.dumps(value, allow_nan=False)) == value


# ------------------------------------------------------------------------------------------------------------- targets


def test_targets_are_the_classes_and_malignant() -> None:
    assert targets(LC25000, MALIGNANT) == (*LC25000, "malignant")
    assert targets(LC25000, None) == targets(LC25000, ()) == LC25000
    assert targets(("benign", "malignant"), ["malignant"]) == ("benign", "malignant")  # the same question, once
    assert targets(("n", "tumour"), ["tumour"]) == ("n", "tumour", "malignant")


def test_scores_and_truth_by_hand() -> None:
    probs = np.array([[0.1, 0.2, 0.3, 0.05, 0.35], [0.0, 1.0, 0.0, 0.0, 0.0]])
    scores = target_scores(probs, LC25000, MALIGNANT)
    assert np.array_equal(scores[:, :5], probs)
    assert scores[:, 5] == pytest.approx([0.45, 0.0])
    truth = target_truth(np.array([0, 4, 3]), LC25000, MALIGNANT)
    assert truth[:, 5].tolist() == [True, False, True]
    assert np.array_equal(truth[:, :5], np.eye(5, dtype=bool)[[0, 4, 3]])
    assert target_scores(probs[:0], LC25000, None).shape == (0, 5)
    assert target_truth(np.empty(0, dtype=np.int64), LC25000, MALIGNANT).shape == (0, 6)


def test_score_of_a_patch_does_not_depend_on_its_company() -> None:
    probs = np.random.default_rng(0).dirichlet(np.ones(5), size=1001)
    together = target_scores(probs, LC25000, MALIGNANT)
    alone = np.concatenate([target_scores(row[None], LC25000, MALIGNANT) for row in probs])
    assert np.array_equal(together, alone)


def test_target_refusals() -> None:
    with pytest.raises(ValueError, match="malignant names 'lung', which is none of the classes"):
        targets(LC25000, ["lung"])
    with pytest.raises(ValueError, match="a class is called 'malignant'"):
        targets(("a", "b", "malignant"), ["a", "malignant"])


# ---------------------------------------------------------------------------------------------------- operating points


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.62, 1.1])
@pytest.mark.parametrize("seed", range(5))
def test_rates_against_scikit_learn(seed: int, threshold: float) -> None:
    scores, positive, group = random_case(seed)
    ours = operating_point(scores, positive, group, 12, threshold, resamples=20)
    called = scores >= threshold
    assert ours["sensitivity"] == pytest.approx(recall_score(positive, called))
    assert ours["specificity"] == pytest.approx(recall_score(~positive, ~called))
    assert (ours["positives"], ours["negatives"]) == (int(positive.sum()), int((~positive).sum()))
    assert ours["threshold"] == threshold
    assert json_ready(ours)
    for rate in ("sensitivity", "specificity"):
        low, high = ours[f"{rate}_ci"]
        assert 0 <= low <= ours[rate] <= high <= 1


def test_intervals_by_a_naive_loop_over_the_same_draws() -> None:
    scores, positive, group = random_case(2)
    positive[group >= 9] = False  # fewer groups hold positives than negatives
    ours = operating_point(scores, positive, group, 12, 0.5, resamples=60, seed=4)
    drawn = multiplicities(np.random.default_rng(4), 12, 60).astype(int)
    for rate, side in (("sensitivity", positive), ("specificity", ~positive)):
        behind = len(set(group[side]))
        values = []
        for times in drawn:
            rows = [i for g in range(12) for _ in range(times[g]) for i in np.flatnonzero((group == g) & side)]
            right = (scores[rows] >= 0.5) == positive[rows]
            values.append(right.mean())
        value = ours[rate]
        half = (
            student.ppf(0.975, behind - 1) * np.std(values) * math.sqrt(behind / (behind - 1)) / (value * (1 - value))
        )
        odds = value / (1 - value) * np.exp([-half, half])
        assert ours[f"{rate}_ci"] == pytest.approx(odds / (1 + odds), abs=1e-5)


def test_exactly_one_and_zero_get_the_bound_of_their_groups() -> None:
    group = np.repeat(np.arange(10), 2)
    positive = group < 4
    ours = operating_point(np.where(positive, 0.9, 0.8), positive, group, 10, 0.5, resamples=20)
    assert (ours["sensitivity"], ours["sensitivity_ci"]) == (1.0, [pytest.approx(0.025 ** (1 / 4)), 1.0])
    assert (ours["specificity"], ours["specificity_ci"]) == (0.0, [0.0, pytest.approx(1 - 0.025 ** (1 / 6))])


def test_what_is_not_known_is_null() -> None:
    scores, positive, group = random_case(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        no_threshold = operating_point(scores, positive, group, 12, None)
        one_side = operating_point(scores, np.zeros_like(positive), group, 12, 0.5, resamples=10)
        empty = operating_point(scores[:0], positive[:0], group[:0], 0, 0.5)
        one_group = operating_point(scores, positive, np.zeros_like(group), 1, 0.5)
        plain = operating_point(scores, positive, group, 12, 0.5, resamples=0)
        single = operating_point(np.array([0.7]), np.array([True]), np.array([0]), 1, 0.5)
    assert {no_threshold[key] for key in ("threshold", "sensitivity", "specificity_ci")} == {None}
    assert no_threshold["positives"] == positive.sum()
    assert (one_side["positives"], one_side["sensitivity"], one_side["sensitivity_ci"]) == (0, None, None)
    assert one_side["specificity_ci"] is not None
    assert (empty["positives"], empty["negatives"], empty["sensitivity"]) == (0, 0, None)
    assert (one_group["sensitivity_ci"], plain["sensitivity_ci"]) == (None, None)
    assert plain["sensitivity"] == one_group["sensitivity"]
    assert (single["sensitivity"], single["sensitivity_ci"], single["specificity"]) == (1.0, None, None)
    assert all(map(json_ready, (no_threshold, one_side, empty, one_group, plain, single)))


# ----------------------------------------------------------------------------------------------------------- ROC bands


def naive_curve(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """TPR on the grid from scikit-learn's points: between them a straight line, on a vertical stretch its top."""
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    values = []
    for x in GRID:
        top = tpr[fpr <= x].max()
        i = np.flatnonzero(fpr <= x)[-1]
        if fpr[i] < x:
            top += (x - fpr[i]) / (fpr[i + 1] - fpr[i]) * (tpr[i + 1] - tpr[i])
        values.append(top)
    return np.array(values)


@pytest.mark.parametrize("seed", range(10))
def test_curve_against_scikit_learn(seed: int) -> None:
    scores, positive, group = random_case(seed)
    ours = roc_band(scores, positive, group, 12, resamples=40)
    assert ours is not None
    assert ours["fpr"] == [k / 50 for k in range(51)]
    assert ours["tpr"] == pytest.approx(naive_curve(scores, positive), abs=1e-12)
    assert (np.diff(ours["tpr"]) > -1e-12).all()
    assert ours["tpr"][-1] == 1.0
    assert (np.array(ours["low"]) <= ours["tpr"]).all()
    assert (np.array(ours["high"]) >= ours["tpr"]).all()
    assert json_ready(ours)


def test_area_under_a_fine_curve_is_the_auroc() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(4000) < 0.5
    scores = rng.normal(size=4000) + positive
    curve = roc_band(scores, positive, np.arange(4000), 4000, resamples=0)
    assert curve is not None
    assert np.trapezoid(curve["tpr"], GRID) == pytest.approx(roc_auc_score(positive, scores), abs=2e-3)
    assert (curve["low"], curve["high"]) == (None, None)


def test_band_by_a_naive_loop_over_the_same_draws() -> None:
    scores, positive, group = random_case(3)
    ours = roc_band(scores, positive, group, 12, resamples=50, seed=8)
    assert ours is not None
    curves = []
    for times in multiplicities(np.random.default_rng(8), 12, 50).astype(int):
        rows = np.concatenate([np.flatnonzero(group == g) for g in range(12) for _ in range(times[g])])
        curves.append(naive_curve(scores[rows], positive[rows]))
    out = tail(min(len(set(group[positive])), len(set(group[~positive]))))
    low, high = np.quantile(curves, [out, 1 - out], axis=0)
    assert ours["low"] == pytest.approx(np.minimum(low, ours["tpr"]), abs=1e-12)
    assert ours["high"] == pytest.approx(np.maximum(high, ours["tpr"]), abs=1e-12)


def test_no_curve_without_a_side_and_no_band_without_groups_or_errors() -> None:
    scores, positive, group = random_case(1)
    assert roc_band(scores, np.ones_like(positive), group, 12) is None
    assert roc_band(scores[:0], positive[:0], group[:0], 0) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_positive = np.arange(len(scores)) == 5
        alone = roc_band(scores, one_positive, group, 12, resamples=20)
        perfect = roc_band(positive.astype(float), positive, group, 12, resamples=20)
        inverted = roc_band(-positive.astype(float), positive, group, 12, resamples=20)
    for curve in (alone, perfect, inverted):
        assert curve is not None
        assert (curve["low"], curve["high"]) == (None, None)
    assert set(perfect["tpr"]) == {1.0}
    assert (inverted["tpr"][0], inverted["tpr"][25], inverted["tpr"][-1]) == (0.0, 0.0, 1.0)
