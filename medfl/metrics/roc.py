"""An ROC curve on a fixed grid, with a pointwise 95 % band: numbers enough to draw it, none of which is a score."""

from __future__ import annotations

from typing import Any

import numpy as np

from medfl.metrics.auroc import BoolArray, FloatArray, IndexArray, binary_auroc
from medfl.metrics.intervals import multiplicities, tail

GRID: FloatArray = np.arange(51) / 50
"""False positive rates at which the curve is given."""
ROWS = 64
"""Resamples worked on at a time, so that memory stays small at sites of many patches."""


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
    tpr = curves.at(np.ones((1, n_groups)))[0]
    result: dict[str, Any] = {"fpr": GRID.tolist(), "tpr": tpr.tolist(), "low": None, "high": None}
    sides = [len(np.unique(group[side])) for side in (positive, ~positive)]
    if resamples > 0 and min(sides) >= 2 and binary_auroc(scores, positive) not in (0.0, 1.0):
        drawn = multiplicities(np.random.default_rng(seed), n_groups, resamples)
        resampled = np.concatenate([curves.at(part) for part in np.array_split(drawn, -(-len(drawn) // ROWS))])
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
        """TPR on GRID, [R, 51], when the patches of each group count `weights [R, G]` times; nan in rows where a side
        has no weight.

        A curve joins the points of all thresholds by straight lines, so that ties are shared out evenly as in AUROC;
        on a vertical stretch its upper end counts.
        """
        weight = weights[:, self._group]
        true, false = (
            np.pad(np.cumsum(weight * side, axis=1)[:, self._last], ((0, 0), (1, 0)))
            for side in (self._positive, ~self._positive)
        )
        drawn = (true[:, -1] > 0) & (false[:, -1] > 0)
        result = np.full((len(weights), len(GRID)), np.nan)
        tpr, fpr = true[drawn] / true[drawn, -1:], false[drawn] / false[drawn, -1:]
        before = np.array([np.searchsorted(row, GRID, side="right") - 1 for row in fpr], dtype=np.int64)
        before = before.reshape(len(fpr), len(GRID))
        after = np.minimum(before + 1, fpr.shape[1] - 1)
        low, high = (np.take_along_axis(fpr, at, axis=1) for at in (before, after))
        along = np.divide(GRID - low, high - low, out=np.zeros(low.shape), where=high > low)
        start, end = (np.take_along_axis(tpr, at, axis=1) for at in (before, after))
        result[drawn] = start + along * (end - start)
        return result
