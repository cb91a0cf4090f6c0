"""The variance of AUROC when patches come in groups: DeLong's structural components summed over source groups.

DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595; for clustered data Obuchowski 1997, doi:10.2307/2533958.
A group's *influence* on an AUROC is how far its patches pull it; with P positives, Q negatives and AUROC A,

    u_g = f+ / P  sum over positives i of g of (V10_i - A)  +  f- / Q  sum over negatives j of g of (V01_j - A)

where V10_i is the share of negatives below positive i, V01_j the share of positives above negative j (a tie counts one
half), and f^2 = I / (I - 1) corrects for I, the groups that hold positives (or negatives). The variance is the sum of
u_g^2. The influence on a mean over classes is the mean of the influences, so that classes scored on the same patches
need no separate covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfl.metrics.auroc import BoolArray, FloatArray, IndexArray, IntArray, compare, ratio, supported


@dataclass(frozen=True)
class AurocVariance:
    """Variances of the AUROC of one site, and how many degrees of freedom they were estimated with.

    Attributes:
        per_class: variance of each class's AUROC, f64[C]; nan with fewer than 2 groups on either side.
        mean: variance of the mean over the supported classes; nan if `per_class` is nan everywhere.
        df_per_class: degrees of freedom f64[C], nan where the variance is nan or 0.
        df_mean: the same for `mean`.
    """

    per_class: FloatArray
    mean: float
    df_per_class: FloatArray
    df_mean: float


def clustered_delong(probs: FloatArray, labels: IntArray, group: IndexArray, n_groups: int) -> AurocVariance:
    """Variance of every one-vs-rest AUROC and of their mean over the supported classes.

    Args:
        probs: scores [N, C].
        labels: true class [N].
        group: source group [N], 0 to n_groups - 1.
        n_groups: G.
    """
    influence, varies = _influences(probs, labels, group, n_groups)
    table = class_table(labels, group, n_groups, probs.shape[1])
    per_class = np.where(varies, (influence**2).sum(axis=0), np.nan)
    mean, df_mean = np.nan, np.nan
    if varies.any():
        of_mean = influence[:, supported(labels, probs.shape[1])].mean(axis=1, keepdims=True)
        mean, df_mean = float((of_mean**2).sum()), float(degrees_of_freedom(of_mean, table)[0])
    df_per_class = np.where(varies, degrees_of_freedom(influence, table), np.nan)
    return AurocVariance(per_class, mean, df_per_class, df_mean)


def mean_influence(probs: FloatArray, labels: IntArray, group: IndexArray, n_groups: int) -> FloatArray | None:
    """Each group's influence f64[G] on the mean AUROC over the supported classes; None where nothing is known to vary.
    Two models scored on the same patches differ by an AUROC with the difference of their influences."""
    influence, varies = _influences(probs, labels, group, n_groups)
    if not varies.any():
        return None
    return np.asarray(influence[:, supported(labels, probs.shape[1])].mean(axis=1))


def class_table(labels: IntArray, group: IndexArray, n_groups: int, n_classes: int) -> IndexArray:
    """Patches of each group and class, [G, C]."""
    cells = np.bincount(group * n_classes + labels, minlength=n_groups * n_classes)
    return cells.reshape(n_groups, n_classes)


def _influences(probs: FloatArray, labels: IntArray, group: IndexArray, n_groups: int) -> tuple[FloatArray, BoolArray]:
    """u_g of each class [G, C], 0 for one without support, and which classes are known to vary, [C]."""
    n_classes = probs.shape[1]
    influence, varies = np.zeros((n_groups, n_classes)), np.zeros(n_classes, dtype=bool)
    for c in np.flatnonzero(supported(labels, n_classes)):
        influence[:, c], varies[c] = _influence(probs[:, c], labels == c, group, n_groups)
    return influence, varies


def _influence(scores: FloatArray, positive: BoolArray, group: IndexArray, n_groups: int) -> tuple[FloatArray, bool]:
    """u_g of one class [G], and whether both sides have the 2 groups without which nothing is known to vary."""
    order = compare(scores, positive, group)
    n_positive, n_negative = len(order.positive), len(order.negative)
    below = (order.tie_start + order.tie_end) / (2 * n_negative)  # V10
    counts = [np.bincount(ties, minlength=n_negative + 1) for ties in (order.tie_start, order.tie_end)]
    above = 1 - np.cumsum(counts, axis=1).sum(axis=0)[:n_negative] / (2 * n_positive)  # V01
    auroc = below.mean()
    total, varies = np.zeros(n_groups), True
    for share, side in ((below, order.positive), (above, order.negative)):
        groups = len(np.unique(side))
        varies &= groups >= 2
        correction = groups / max(groups - 1, 1)
        total += correction**0.5 * np.bincount(side, share - auroc, minlength=n_groups) / len(side)
    return total, varies


def degrees_of_freedom(influence: FloatArray, table: IndexArray) -> FloatArray:
    """Satterthwaite's degrees of freedom of the column sums of `influence [G, M]` squared; nan for a sum of 0.

    Groups fall into strata by the class most of their patches belong to (`table [G, C]` counts them): a stratum of m
    groups gives its part of the variance m - 1 degrees of freedom, at least 1. Two classes make this Welch's rule.
    """
    stratum = table.argmax(axis=1)[:, None] == np.arange(table.shape[1])
    parts = stratum.T.astype(np.float64) @ influence**2
    own = np.maximum(stratum.sum(axis=0) - 1, 1)[:, None]
    return ratio(parts.sum(axis=0) ** 2, (parts**2 / own).sum(axis=0))
