"""Area under the ROC curve, one class against the rest, with exact ties and explicit support.

AUROC is the Mann-Whitney statistic: the share of (positive, negative) pairs in which the positive scores
higher, a tie counting one half (Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747). A class is
*supported* when both sides of that comparison exist; without support its AUROC is nan, never 0 or 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IndexArray = NDArray[np.intp]
IntArray = NDArray[np.integer[Any]]


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Elementwise quotient of broadcastable arrays, nan where the denominator is zero."""
    result = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def supported(labels: IntArray, n_classes: int) -> BoolArray:
    """Return bool[C]: which classes have at least one positive and one negative among `labels [N]`."""
    positives = np.bincount(labels, minlength=n_classes)
    return (positives > 0) & (positives < len(labels))


@dataclass(frozen=True)
class Comparison:
    """The order of the positives among the negatives: one sort, then any number of weighted AUROCs.

    A patch counts as often as its unit (itself or its source group) was drawn. In rising order of the
    negatives, positive i stands above the first `tie_start[i]` of them and is tied with those up to
    `tie_end[i]`.

    Attributes:
        positive: unit of each positive patch, [P].
        negative: unit of each negative patch in rising order of score, [Q].
        tie_start: negatives scoring less than each positive, [P].
        tie_end: negatives scoring no more than each positive, [P].
    """

    positive: IndexArray
    negative: IndexArray
    tie_start: IndexArray
    tie_end: IndexArray

    def auroc(self, weights: FloatArray) -> FloatArray:
        """AUROC under each of R sets of weights, [R]; nan in a set without both sides.

        Args:
            weights: multiplicity of each unit in each set, [U, R].

        A positive wins against the weight of the negatives below it and half that of its ties: the mean of
        the cumulative sum at the two ends of its tied block, which is the weighted midrank. Sums of counts
        are exact in float64, so perfect separation is exactly 1.
        """
        cumulative = np.zeros((len(self.negative) + 1, weights.shape[1]))
        np.cumsum(weights[self.negative], axis=0, out=cumulative[1:])
        won = weights[self.positive]
        pairs = won.sum(axis=0) * cumulative[-1]
        twice_wins = np.einsum("pr,pr->r", won, cumulative[self.tie_start] + cumulative[self.tie_end])
        return ratio(twice_wins, 2 * pairs)


def compare(scores: FloatArray, positive: BoolArray, unit: IndexArray) -> Comparison:
    """Sort `scores [N]` once; `positive` is bool [N], `unit [N]` the row of the later weight matrix."""
    order = np.argsort(scores[~positive], kind="stable")
    negatives = scores[~positive][order]
    return Comparison(
        positive=unit[positive],
        negative=unit[~positive][order],
        tie_start=np.searchsorted(negatives, scores[positive], side="left"),
        tie_end=np.searchsorted(negatives, scores[positive], side="right"),
    )


def binary_auroc(scores: FloatArray, positive: BoolArray) -> float:
    """AUROC of `scores [N]` for the patches marked in `positive`, bool [N]; nan without both sides."""
    every_patch_once = np.zeros(len(scores), dtype=np.intp)
    return float(compare(scores, positive, every_patch_once).auroc(np.ones((1, 1)))[0])


def auroc_per_class(probs: FloatArray, labels: IntArray) -> FloatArray:
    """One-vs-rest AUROC of every class: `probs [N, C]`, `labels [N]` -> float[C], nan where unsupported."""
    return np.array([binary_auroc(probs[:, c], labels == c) for c in range(probs.shape[1])])


def mean_auroc(per_class: FloatArray) -> FloatArray:
    """Mean over the supported classes: `[..., C]` -> `[...]`; nan where no class is supported."""
    present = ~np.isnan(per_class)
    return ratio(np.where(present, per_class, 0.0).sum(axis=-1), present.sum(axis=-1).astype(np.float64))
