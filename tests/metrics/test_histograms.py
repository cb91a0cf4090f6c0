"""Score histograms against numpy's, scikit-learn's AUROC and naive thresholds; merging against all patches at once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medfl.metrics.histograms import EDGES, ScoreHistograms, score_histograms
from medfl.metrics.targets import target_scores, target_truth

CLASSES = ["a", "b", "c", "d", "e"]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def five_classes(seed: int, scale: float, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Scores and truth [N, 6] of five classes and of "malignant"; a large scale saturates the probabilities."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, n)
    probs = softmax(scale * (rng.normal(size=(n, 5)) + 1.5 * np.eye(5)[labels]))
    return target_scores(probs, CLASSES, ["a", "b"]), target_truth(labels, CLASSES, ["a", "b"])


def odd_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One target, few patches: ties, saturated scores, exact 0 and 1, sometimes one side only."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 50))
    kinds = [
        rng.random(n).round(1),
        1 / (1 + np.exp(-rng.normal(0, 20, n))),
        rng.choice([0.0, 1.0, 1 - 1e-16, 1e-300, 0.5], n),
    ]
    positive = rng.random(n) < rng.choice([0.0, 0.3, 0.7, 1.0])
    return kinds[seed % 3][:, None], positive[:, None]


def reference_auroc(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    sides = [truth.any() and not truth.all() for truth in positive.T]
    return np.array(
        [roc_auc_score(t, s) if both else np.nan for s, t, both in zip(scores.T, positive.T, sides, strict=True)]
    )


def test_edges_are_equal_in_the_logit_from_0_to_1() -> None:
    assert (len(EDGES), EDGES[0], EDGES[-1]) == (1025, 0.0, 1.0)
    assert (np.diff(EDGES) > 0).all()
    inner = EDGES[1:-1]
    assert np.allclose(np.diff(np.log(inner / (1 - inner)))[:700], 60 / 1024, rtol=1e-6)
    assert np.allclose(EDGES, 1 - EDGES[::-1], atol=1e-15)


@pytest.mark.parametrize("seed", range(12))
def test_counts_are_those_of_numpy(seed: int) -> None:
    scores, positive = odd_case(seed)
    ours = score_histograms(scores, positive)
    assert np.array_equal(ours.positive[0], np.histogram(scores[positive], EDGES)[0])
    assert np.array_equal(ours.negative[0], np.histogram(scores[~positive], EDGES)[0])


@pytest.mark.parametrize("seed", range(40))
def test_auroc_is_within_its_bound_whatever_the_scores(seed: int) -> None:
    scores, positive = odd_case(seed)
    ours, exact = score_histograms(scores, positive), reference_auroc(scores, positive)
    assert np.array_equal(np.isnan(ours.auroc()), np.isnan(exact))
    assert np.array_equal(np.isnan(ours.resolution()), np.isnan(exact))
    if not np.isnan(exact[0]):
        cell = np.digitize(scores[:, 0], EDGES[1:-1])
        pairs = [(i, j) for i in np.flatnonzero(positive) for j in np.flatnonzero(~positive)]
        shared = sum(cell[i] == cell[j] for i, j in pairs) / len(pairs)
        assert ours.resolution()[0] == pytest.approx(shared / 2, abs=1e-12)
        assert abs(ours.auroc()[0] - exact[0]) <= shared / 2 + 1e-12


@pytest.mark.parametrize(
    ("scale", "digits", "within"),
    [(1.0, 16, 1e-3), (1.0, 2, 1e-3), (3.0, 16, 1e-3), (10.0, 16, 1e-3), (10.0, 3, 1e-3), (40.0, 16, 0.1)],
)
@pytest.mark.parametrize("seed", range(2))
def test_auroc_is_within_a_thousandth(seed: int, scale: float, digits: int, within: float) -> None:
    """Smooth, tied (rounded) and saturated scores; at scale 40, where most are below 1e-13, only the bound holds."""
    scores, positive = five_classes(seed, scale)
    scores = scores.round(digits) if digits < 16 else scores
    ours = score_histograms(scores, positive)
    error = np.abs(ours.auroc() - reference_auroc(scores, positive))
    assert error.max() < within
    assert (error <= ours.resolution() + 1e-12).all()


def test_separated_scores_are_exact_and_one_common_bin_is_all_ties() -> None:
    positive = np.array([[True], [True], [False], [False]])
    scores = np.array([[0.9], [1 - 1e-9], [0.1], [1e-9]])
    for order, auroc in ((scores, 1.0), (1 - scores, 0.0)):
        ours = score_histograms(order, positive)
        assert (float(ours.auroc()[0]), float(ours.resolution()[0])) == (auroc, 0.0)
    tied = score_histograms(np.full((4, 1), 0.3), positive)
    assert (float(tied.auroc()[0]), float(tied.resolution()[0])) == (0.5, 0.5)


def test_scores_next_to_one_are_told_apart() -> None:
    scores = 1 - np.array([1e-10, 1e-11, 1e-12, 1.2e-13])[:, None]
    assert len(np.flatnonzero(score_histograms(scores, np.ones((4, 1), dtype=bool)).positive)) == 4


@pytest.mark.parametrize("seed", range(4))
def test_sites_merge_to_all_patches_at_once(seed: int) -> None:
    scores, positive = five_classes(seed, 3.0, n=300)
    site = np.random.default_rng(seed).integers(0, 3, 300)
    merged = score_histograms(scores[:0], positive[:0])  # a site without patches
    assert np.isnan(merged.auroc()).all()
    for name in range(3):
        own = score_histograms(scores[site == name], positive[site == name])
        merged = merged + ScoreHistograms.from_lists(json.loads(json.dumps(own.to_lists())))
    at_once = score_histograms(scores, positive)
    assert np.array_equal(merged.positive, at_once.positive)
    assert np.array_equal(merged.negative, at_once.negative)
    assert np.array_equal(merged.auroc(), at_once.auroc())
    assert np.array_equal(merged.threshold(0.9), at_once.threshold(0.9))


@pytest.mark.parametrize("sensitivity", [0.5, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(12))
def test_threshold_is_the_largest_edge_that_is_sensitive_enough(seed: int, sensitivity: float) -> None:
    scores, positive = odd_case(seed)
    ours = float(score_histograms(scores, positive).threshold(sensitivity)[0])
    if not positive.any():
        assert np.isnan(ours)
        return
    reached = [np.mean(scores[positive] >= edge) >= sensitivity for edge in EDGES[:-1]]
    assert ours == EDGES[:-1][reached].max()


def test_threshold_by_hand_and_refusals() -> None:
    # positives .2 .6 .7 .9: three of four at or above the edge below .6, so that 3/4 is reached exactly there
    scores = np.array([[0.2], [0.6], [0.7], [0.9], [0.5]])
    ours = score_histograms(scores, np.array([[True]] * 4 + [[False]]))
    assert float(ours.threshold(0.75)[0]) == EDGES[EDGES <= 0.6].max()
    assert float(ours.threshold(0.76)[0]) == EDGES[EDGES <= 0.2].max()
    for wrong in (0.0, 1.01, float("nan")):
        with pytest.raises(ValueError, match="sensitivity"):
            ours.threshold(wrong)
