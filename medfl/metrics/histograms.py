"""Score histograms: what a site gives out in place of its scores, enough for a pooled AUROC and for thresholds.

A histogram per target counts the patches of the target and the others in 1,024 fixed bins. Because the edges are fixed,
two sites' histograms add. The bins are equally wide in the logit of the score: scores of networks crowd near 0 and 1,
where equal bins of the probability itself could not tell them apart. docs/metrics.md gives the bound on the error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.metrics.auroc import BoolArray, FloatArray, ratio

BINS = 1024
LOGIT_RANGE = 30.0
"""The inner edges lie within +-30: at 1 - 1e-13 a bin is still 50 float64 steps wide, at 1 - 1e-15 it would be none."""


def _edges() -> FloatArray:
    logits = np.linspace(-LOGIT_RANGE, LOGIT_RANGE, BINS + 1)
    edges = 1.0 / (1.0 + np.exp(-logits))
    edges[0], edges[-1] = 0.0, 1.0  # the outer bins take everything beyond
    return edges


EDGES: FloatArray = _edges()
"""Edges [K + 1] as scores from 0 to 1; bin k holds EDGES[k] <= score < EDGES[k + 1], the last bin 1 as well."""


@dataclass(frozen=True)
class ScoreHistograms:
    """Patches by bin of their score, per target; `+` merges the patches of two disjoint sets.

    Attributes:
        positive: patches of the target, i64[..., K].
        negative: all other patches, i64[..., K].
    """

    positive: NDArray[np.int64]
    negative: NDArray[np.int64]

    def __add__(self, other: ScoreHistograms) -> ScoreHistograms:
        return ScoreHistograms(self.positive + other.positive, self.negative + other.negative)

    def auroc(self) -> FloatArray:
        """AUROC of the binned scores f64[...], patches of one bin counting as tied; nan without both sides."""
        below = np.cumsum(self.negative, axis=-1) - self.negative
        twice_wins = (self.positive * (2 * below + self.negative)).sum(axis=-1)
        return ratio(np.asarray(twice_wins, dtype=np.float64), 2 * self._pairs())

    def resolution(self) -> FloatArray:
        """Bound on |auroc() - AUROC of the scores| f64[...]; nan without both sides.

        Half the share of (positive, negative) pairs that lie in a common bin: all other pairs are ordered as their
        scores are, and each of these counts one half here where it should have counted 0, one half or 1.
        """
        common = (self.positive * self.negative).sum(axis=-1)
        return ratio(np.asarray(common, dtype=np.float64), 2 * self._pairs())

    def threshold(self, sensitivity: float) -> FloatArray:
        """The largest edge t with at least this share of the positives at score >= t, f64[...]; nan without positives.

        Raises:
            ValueError: sensitivity is not above 0 and at most 1.
        """
        if not 0.0 < sensitivity <= 1.0:
            raise ValueError(f"sensitivity is {sensitivity}, must be above 0 and at most 1")
        at_least = np.cumsum(self.positive[..., ::-1], axis=-1)[..., ::-1].astype(np.float64)
        reached = ratio(at_least, at_least[..., :1]) >= sensitivity  # falls along the bins: true, ..., true, false, ...
        last = np.maximum(reached.sum(axis=-1) - 1, 0)
        return np.asarray(np.where(reached[..., 0], EDGES[last], np.nan))

    def rates(self, threshold: float) -> tuple[FloatArray, FloatArray]:
        """Sensitivity and specificity f64[...] of calling positive what is at or above a threshold that is an edge,
        such as `threshold` gives; nan without patches of that side."""
        called = EDGES[:-1] >= threshold
        hits, right = self.positive[..., called].sum(axis=-1), self.negative[..., ~called].sum(axis=-1)
        sides = self.positive.sum(axis=-1), self.negative.sum(axis=-1)
        sensitivity, specificity = (
            ratio(np.asarray(part, dtype=np.float64), np.asarray(side, dtype=np.float64))
            for part, side in zip((hits, right), sides, strict=True)
        )
        return sensitivity, specificity

    def to_lists(self) -> dict[str, Any]:
        """{"positive": nested lists of int, "negative": the same}, ready for JSON."""
        return {"positive": self.positive.tolist(), "negative": self.negative.tolist()}

    @classmethod
    def from_lists(cls, lists: Mapping[str, Any]) -> ScoreHistograms:
        """The inverse of `to_lists`."""
        return cls(np.array(lists["positive"], dtype=np.int64), np.array(lists["negative"], dtype=np.int64))

    def _pairs(self) -> FloatArray:
        return np.asarray(self.positive.sum(axis=-1) * self.negative.sum(axis=-1), dtype=np.float64)


def score_histograms(scores: FloatArray, positive: BoolArray) -> ScoreHistograms:
    """Count `scores` f64[N, M] of M targets, `positive` bool[N, M] marking each target's patches -> [M, K]."""
    n_targets = scores.shape[1]
    cell = np.searchsorted(EDGES[1:-1], scores, side="right") + BINS * np.arange(n_targets)

    def count(chosen: BoolArray) -> NDArray[np.int64]:
        return np.bincount(cell[chosen], minlength=n_targets * BINS).astype(np.int64).reshape(n_targets, BINS)

    return ScoreHistograms(count(positive), count(~positive))


def sum_histograms(parts: Iterable[Mapping[str, Any]]) -> ScoreHistograms:
    """The histograms of several sites, as their messages have them, together; of one site at least."""
    return reduce(add, map(ScoreHistograms.from_lists, parts))
