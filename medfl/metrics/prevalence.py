"""How much of each class new patches show, corrected for the classifier's errors, from counts alone.

A classifier that calls q of the patches of its new place so, and is right as often as its confusion matrix says, has
seen the class mix pi for which q = pi M, with M[c, d] the share of class c that is called d (Gart and Buck 1966,
"adjusted count"). Where that pi would leave the simplex, the most likely one inside it is meant, which
expectation-maximisation finds (Saerens et al. 2002, here on counts in place of scores). Both take M to hold at the new
place, as it does where only the mix has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.metrics.auroc import FloatArray, IntArray

STEPS = 400
DRAWS = 500
SEED = 20


@dataclass(frozen=True)
class PredictedCounts:
    """Patches by predicted class, [C], the sums over source groups of the products of two classes' counts, [C, C], and
    the number of source groups: whole numbers, which add up to those of two places together."""

    groups: int
    counts: NDArray[np.int64]
    products: NDArray[np.int64]

    @classmethod
    def of(cls, predicted: IntArray, group: IntArray, n_classes: int) -> PredictedCounts:
        """Those of patches with these predicted classes [N], of these source groups [N]."""
        names, index = np.unique(group, return_inverse=True)
        cells = np.bincount(index * n_classes + predicted, minlength=len(names) * n_classes)
        table = cells.reshape(len(names), n_classes).astype(np.int64)
        return cls(len(names), table.sum(axis=0), table.T @ table)

    def __add__(self, other: PredictedCounts) -> PredictedCounts:
        return PredictedCounts(self.groups + other.groups, self.counts + other.counts, self.products + other.products)

    def to_lists(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return {"groups": self.groups, "counts": self.counts.tolist(), "products": self.products.tolist()}

    @property
    def shares(self) -> FloatArray:
        """Share of the patches that is called each class, [C]."""
        return np.asarray(self.counts / self.counts.sum())

    @property
    def covariance(self) -> FloatArray:
        """Of `shares` over source groups, [C, C]: that of a ratio of sums (Cochran 1977, section 6.3)."""
        q, cross = self.shares, self.products.astype(np.float64)
        sizes, squares = cross.sum(axis=1), cross.sum()
        spread = cross - np.outer(q, sizes) - np.outer(sizes, q) + np.outer(q, q) * squares
        return np.asarray(self.groups / (self.groups - 1) * spread / float(self.counts.sum()) ** 2)


def corrected_mix(shares: FloatArray, recall: FloatArray) -> FloatArray:
    """The most likely class mix [..., C] for shares of predicted classes [..., C] under `recall` [..., C, C], each row
    of which is what a true class is called."""
    mix = np.full(shares.shape, 1.0 / shares.shape[-1])
    for _ in range(STEPS):
        called = np.einsum("...c,...cd->...d", mix, recall)
        weight = np.divide(shares, called, out=np.zeros_like(shares), where=called > 0)
        mix = mix * np.einsum("...cd,...d->...c", recall, weight)
        mix /= np.maximum(mix.sum(axis=-1, keepdims=True), 1e-300)
    return mix


def corrected_prevalence(
    predicted: PredictedCounts, confusion: FloatArray, class_groups: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray] | None:
    """The corrected class mix with the ends of its 95 % interval, [C] each; None without patches of a class.

    Draws of both sides: the shares, normal with their covariance over source groups, and each row of the confusion
    matrix, Dirichlet with as many draws as it has source groups, since patches of one group are alike, and one more
    spread over the classes. The interval is of percentiles.

    Args:
        predicted: of at least two source groups.
        confusion: patches by true and predicted class [C, C], of where the model was measured.
        class_groups: source groups behind each row, [C].
    """
    totals = confusion.sum(axis=1)
    if not (totals > 0).all():
        return None
    recall = confusion / totals[:, None]
    rng = np.random.default_rng(SEED)
    draws = rng.multivariate_normal(predicted.shares, predicted.covariance, DRAWS, check_valid="ignore", method="eigh")
    draws = np.maximum(draws, 0.0)
    draws /= draws.sum(axis=1, keepdims=True)
    weights = recall * np.maximum(class_groups, 1.0)[:, None] + 1.0 / len(totals)
    rows = rng.standard_gamma(np.broadcast_to(weights, (DRAWS, *weights.shape)))
    rows /= rows.sum(axis=-1, keepdims=True)
    low, high = np.percentile(corrected_mix(draws, rows), (2.5, 97.5), axis=0)
    point = corrected_mix(predicted.shares, recall)
    return point, np.minimum(low, point), np.maximum(high, point)
