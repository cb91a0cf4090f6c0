"""An ROC curve on a fixed grid, with a pointwise 95 % band: numbers enough to draw it, none of which is a score."""

from __future__ import annotations

from typing import Any

import numpy as np

from medfl.metrics.auroc import BoolArray, FloatArray, IndexArray, binary_auroc
from medfl.metrics.intervals import multiplicities, tail

GRID: FloatArray = np.arange(51) / 50
"""False positive rates at which the curve is given."""
LARGEST_BLOCK = 200_000
"""Patches times resamples that are looked at together."""


def roc_band(
    scores: FloatArray,
    positive: BoolArray,
    group: IndexArray,
    n_groups: int,
    *,
    resamples: int = 200,
    seed: int = 0,
) -> dict[str, Any] | None:
    """The ROC curve of one target, and point by point where 95 % of the curves of resampled source groups lie.

    Args:
        scores: score of each patch for the target [N].
        positive: patches of the target, bool [N].
        group: source group [N], 0 to n_groups - 1.
        n_groups: G.
        resamples: draws of the source groups.
        seed: of the draws.

    Returns:
        {"fpr", "tpr", "low", "high"}, lists of 51 numbers with low <= tpr <= high; None without both sides. `low` and
        `high` are None with fewer than 2 groups on a side, and for a curve without a single error or without a single
        success, since resampling it shows no variation.
    """
    if positive.all() or not positive.any():
        return None
    curves = _Curves(scores, positive, group)
    tpr = curves.at(np.ones(n_groups))
    result: dict[str, Any] = {"fpr": GRID.tolist(), "tpr": tpr.tolist(), "low": None, "high": None}
    sides = [len(np.unique(group[side])) for side in (positive, ~positive)]
    if resamples > 0 and min(sides) >= 2 and binary_auroc(scores, positive) not in (0.0, 1.0):
        drawn = multiplicities(np.random.default_rng(seed), n_groups, resamples)
        resampled = curves.of_each(drawn)
        usable = resampled[~np.isnan(resampled[:, 0])]
        if len(usable):
            outside = tail(min(sides))
            low, high = np.quantile(usable, [outside, 1 - outside], axis=0)
            result |= {"low": np.minimum(low, tpr).tolist(), "high": np.maximum(high, tpr).tolist()}
    return result


class _Curves:
    """The order of the patches by falling score: one sort, then any number of weighted ROC curves."""

    def __init__(self, scores: FloatArray, positive: BoolArray, group: IndexArray) -> None:
        order = np.argsort(-scores, kind="stable")
        falling = scores[order]
        self._group, self._positive = group[order], positive[order]
        self._last = np.append(np.flatnonzero(falling[1:] < falling[:-1]), len(falling) - 1)  # of each tied block

    def at(self, weights: FloatArray) -> FloatArray:
        """TPR on GRID when the patches of each group count `weights [G]` times; nan where a side has no weight.

        The curve joins the points of all thresholds by straight lines, so that ties are shared out evenly as in AUROC;
        on a vertical stretch its upper end counts.
        """
        return np.asarray(self.of_each(weights[None])[0])

    def of_each(self, drawn: FloatArray) -> FloatArray:
        """The same of many weights [R, G] at once, [R, 51]."""
        most = max(1, LARGEST_BLOCK // len(self._group))
        return np.concatenate([self._block(drawn[begin : begin + most]) for begin in range(0, len(drawn), most)])

    def _block(self, drawn: FloatArray) -> FloatArray:
        weight = drawn[:, self._group]
        true = np.cumsum(weight * self._positive, axis=1)[:, self._last]
        false = np.cumsum(weight * ~self._positive, axis=1)[:, self._last]
        curves = np.full((len(drawn), len(GRID)), np.nan)
        usable = np.flatnonzero((true[:, -1] > 0) & (false[:, -1] > 0))
        if not len(usable):
            return curves
        first = np.zeros((len(usable), 1))
        tpr, fpr = (np.hstack([first, side[usable] / side[usable, -1:]]) for side in (true, false))
        before = np.stack([np.searchsorted(row, GRID, side="right") for row in fpr]) - 1
        after = np.minimum(before + 1, fpr.shape[1] - 1)
        left, low = (np.take_along_axis(side, before, axis=1) for side in (fpr, tpr))
        width = np.take_along_axis(fpr, after, axis=1) - left
        along = np.divide(GRID - left, width, out=np.zeros(width.shape), where=width > 0)
        curves[usable] = low + along * (np.take_along_axis(tpr, after, axis=1) - low)
        return curves
