"""Calibration and classification figures computed from sums, so that pooling two sites is an addition.

Every figure here is a function of counts and sums over patches. Both containers may carry leading axes: one
entry per source group, per resample or none at all; `+` merges the patches of two disjoint sets.

ECE:          Guo et al. 2017, arXiv:1706.04599, eq. 3, bins ((b-1)/B, b/B].
debiased ECE: Kumar et al. 2019, arXiv:1909.10155, section 4.1.
classwise ECE: Kull et al. 2019, arXiv:1910.12656, eq. 2.
Brier:        Brier 1950, the multi-class form, sum over classes, range 0 to 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfl.metrics.auroc import FloatArray, IndexArray, IntArray, ratio

SMALLEST_PROBABILITY = 1e-12
"""NLL clips the probability of the true class here, so that one certain mistake costs 27.6, not infinity."""


def bin_edges(bins: int) -> FloatArray:
    """Edges [B + 1] of `bins` equal-width bins on [0, 1]."""
    return np.linspace(0.0, 1.0, bins + 1)


@dataclass(frozen=True)
class CalibrationBins:
    """What a reliability diagram needs: per bin the patches, their summed confidence and their hits, [..., B]."""

    count: FloatArray
    confidence_sum: FloatArray
    correct_sum: FloatArray

    def __add__(self, other: CalibrationBins) -> CalibrationBins:
        return CalibrationBins(
            self.count + other.count,
            self.confidence_sum + other.confidence_sum,
            self.correct_sum + other.correct_sum,
        )

    def map(self, function: Callable[[FloatArray], FloatArray]) -> CalibrationBins:
        """Apply one linear operation on the leading axes to all three arrays."""
        return CalibrationBins(function(self.count), function(self.confidence_sum), function(self.correct_sum))

    def ece(self) -> FloatArray:
        """sum_b (n_b / n) |accuracy_b - confidence_b|, shape [...]; nan without patches."""
        gap = np.abs(self.correct_sum - self.confidence_sum).sum(axis=-1)
        return ratio(gap, self.count.sum(axis=-1))

    def squared_error(self) -> FloatArray:
        """sum_b (n_b / n) [(accuracy_b - confidence_b)^2 - accuracy_b (1 - accuracy_b) / (n_b - 1)], shape [...].

        Kumar et al. 2019, arXiv:1909.10155, section 4.1: the squared calibration error of the binned model without the
        part that noise adds, so that it is 0 on average, of either sign, where the model is calibrated. A bin with one
        patch says nothing and counts 0. nan without patches.
        """
        accuracy = self.accuracy()
        noise = ratio(accuracy * (1 - accuracy), self.count - 1)
        parts = self.count * ((accuracy - self.confidence()) ** 2 - noise)
        return ratio(np.where(self.count > 1, parts, 0.0).sum(axis=-1), self.count.sum(axis=-1))

    def gap(self) -> FloatArray:
        """(n_b / n) (accuracy_b - confidence_b) per bin [..., B], whose absolute values sum to `ece`."""
        return ratio(self.correct_sum - self.confidence_sum, self.count.sum(axis=-1, keepdims=True))

    def confidence(self) -> FloatArray:
        """Mean confidence per bin [..., B], nan in an empty bin."""
        return ratio(self.confidence_sum, self.count)

    def accuracy(self) -> FloatArray:
        """Share of hits per bin [..., B], nan in an empty bin."""
        return ratio(self.correct_sum, self.count)

    def to_lists(self) -> dict[str, Any]:
        """The three arrays as nested lists by name, ready for JSON; no digit is lost."""
        return {
            "count": self.count.tolist(),
            "confidence_sum": self.confidence_sum.tolist(),
            "correct_sum": self.correct_sum.tolist(),
        }

    @classmethod
    def from_lists(cls, lists: Mapping[str, Any]) -> CalibrationBins:
        """The inverse of `to_lists`."""
        return cls(_array(lists["count"]), _array(lists["confidence_sum"]), _array(lists["correct_sum"]))


@dataclass(frozen=True)
class ScoreSums:
    """Mergeable sums over a set of patches, with any leading axes [...].

    Attributes:
        squared_error: sum over patches and classes of (p - onehot)^2, [...].
        log_loss: sum over patches of -log p_true, in nats, [...].
        confusion: patches by (true class, predicted class), [..., C, C].
        top: bins of the largest probability; a hit is a correct prediction, [..., B].
        classwise: bins of every class's probability; a hit is a patch of that class, [..., C, B].
        left_out: right and wrong predictions that the confusion matrix does not tell (`small_cells`), [..., 2].
    """

    squared_error: FloatArray
    log_loss: FloatArray
    confusion: FloatArray
    top: CalibrationBins
    classwise: CalibrationBins
    left_out: FloatArray

    def __add__(self, other: ScoreSums) -> ScoreSums:
        return ScoreSums(
            self.squared_error + other.squared_error,
            self.log_loss + other.log_loss,
            self.confusion + other.confusion,
            self.top + other.top,
            self.classwise + other.classwise,
            self.left_out + other.left_out,
        )

    def map(self, function: Callable[[FloatArray], FloatArray]) -> ScoreSums:
        """Apply one linear operation on the leading axes to every array."""
        return ScoreSums(
            function(self.squared_error),
            function(self.log_loss),
            function(self.confusion),
            self.top.map(function),
            self.classwise.map(function),
            function(self.left_out),
        )

    def total(self) -> ScoreSums:
        """Merge over the first leading axis: groups [G, ...] become one set."""
        return self.map(lambda sums: np.asarray(sums.sum(axis=0)))

    def resample(self, multiplicity: FloatArray) -> ScoreSums:
        """R weighted merges over the first axis: `multiplicity [R, G]` turns [G, ...] into [R, ...]."""
        return self.map(lambda sums: np.tensordot(multiplicity, sums, axes=1))

    def patches(self) -> FloatArray:
        """Number of patches, [...]."""
        return np.asarray(self.confusion.sum(axis=(-2, -1)) + self.left_out.sum(axis=-1))

    def brier(self) -> FloatArray:
        """Mean over patches of the summed squared error over classes, 0 (best) to 2, [...]."""
        return ratio(self.squared_error, self.patches())

    def nll(self) -> FloatArray:
        """Mean over patches of -log max(p_true, 1e-12), nats, [...]."""
        return ratio(self.log_loss, self.patches())

    def accuracy(self) -> FloatArray:
        """Share of patches predicted right, [...]."""
        hits = np.trace(self.confusion, axis1=-2, axis2=-1) + self.left_out[..., 0]
        return ratio(np.asarray(hits), self.patches())

    def recall(self) -> FloatArray:
        """Recall of every class [..., C], nan where the class has no patch."""
        return ratio(np.diagonal(self.confusion, axis1=-2, axis2=-1), self.confusion.sum(axis=-1))

    def balanced_accuracy(self) -> FloatArray:
        """Mean recall over the classes that have patches, [...]; nan without patches."""
        recall = self.recall()
        present = ~np.isnan(recall)
        return ratio(np.where(present, recall, 0.0).sum(axis=-1), present.sum(axis=-1).astype(np.float64))

    def ece(self) -> FloatArray:
        """Expected calibration error of the top probability, [...]."""
        return self.top.ece()

    def debiased_ece(self) -> FloatArray:
        """Root of the debiased squared error of the top probability, 0 where that is negative, [...]."""
        return np.asarray(np.sqrt(np.maximum(self.top.squared_error(), 0.0)))

    def classwise_ece(self) -> FloatArray:
        """Mean over all C classes of each class's own calibration error, [...].

        A class without patches counts: probability given to it is miscalibrated, and is measured as such.
        """
        return np.asarray(self.classwise.ece().mean(axis=-1))

    def to_lists(self) -> dict[str, Any]:
        """All sums as nested lists by name (the bins as dicts of such), ready for JSON; no digit is lost."""
        return {
            "squared_error": self.squared_error.tolist(),
            "log_loss": self.log_loss.tolist(),
            "confusion": self.confusion.tolist(),
            "top": self.top.to_lists(),
            "classwise": self.classwise.to_lists(),
            "left_out": self.left_out.tolist(),
        }

    @classmethod
    def from_lists(cls, lists: Mapping[str, Any]) -> ScoreSums:
        """The inverse of `to_lists`."""
        return cls(
            squared_error=_array(lists["squared_error"]),
            log_loss=_array(lists["log_loss"]),
            confusion=_array(lists["confusion"]),
            top=CalibrationBins.from_lists(lists["top"]),
            classwise=CalibrationBins.from_lists(lists["classwise"]),
            left_out=_array(lists["left_out"]),
        )


def _array(lists: Any) -> FloatArray:
    return np.array(lists, dtype=np.float64)


def _totals(cell: IndexArray, shape: tuple[int, ...], value: FloatArray | None = None) -> FloatArray:
    """Sum `value` (default: count) over the entries that fall into each cell of a table of this shape."""
    weights = None if value is None else value.ravel()
    sums = np.bincount(cell.ravel(), weights, minlength=math.prod(shape))
    return sums.astype(np.float64).reshape(shape)


def group_sums(probs: FloatArray, labels: IntArray, group: IndexArray, n_groups: int, bins: int = 15) -> ScoreSums:
    """The sums of every source group, leading axis [G].

    Args:
        probs: softmax probabilities [N, C].
        labels: true class [N], 0 to C - 1.
        group: source group of each patch [N], 0 to n_groups - 1.
        n_groups: G.
        bins: number of equal-width bins B.
    """
    n, n_classes = probs.shape
    classes = np.arange(n_classes)
    onehot = (labels[:, None] == classes).astype(np.float64)
    predicted = probs.argmax(axis=1)
    true_prob = np.maximum(probs[np.arange(n), labels], SMALLEST_PROBABILITY)

    inner = bin_edges(bins)[1:-1]
    pair = (group * n_classes + labels) * n_classes + predicted
    class_cell = (group[:, None] * n_classes + classes) * bins + np.searchsorted(inner, probs, side="left")
    classwise = (n_groups, n_classes, bins)
    return ScoreSums(
        squared_error=_totals(group, (n_groups,), ((probs - onehot) ** 2).sum(axis=1)),
        log_loss=_totals(group, (n_groups,), -np.log(true_prob)),
        confusion=_totals(pair, (n_groups, n_classes, n_classes)),
        top=top_bins(probs, labels, group, n_groups, bins),
        classwise=CalibrationBins(
            _totals(class_cell, classwise),
            _totals(class_cell, classwise, probs),
            _totals(class_cell, classwise, onehot),
        ),
        left_out=np.zeros((n_groups, 2)),
    )


def top_bins(probs: FloatArray, labels: IntArray, group: IndexArray, n_groups: int, bins: int = 15) -> CalibrationBins:
    """`top` of `group_sums` alone, [G, B], for whoever needs no more of every source group. Takes the same."""
    confidence, hit = probs.max(axis=1), (probs.argmax(axis=1) == labels).astype(np.float64)
    cell, shape = group * bins + np.searchsorted(bin_edges(bins)[1:-1], confidence, side="left"), (n_groups, bins)
    return CalibrationBins(_totals(cell, shape), _totals(cell, shape, confidence), _totals(cell, shape, hit))


def score_sums(probs: FloatArray, labels: IntArray, bins: int = 15) -> ScoreSums:
    """The sums over all patches of `probs [N, C]`, `labels [N]`, without leading axes."""
    return group_sums(probs, labels, np.zeros(len(probs), dtype=np.intp), 1, bins).total()
