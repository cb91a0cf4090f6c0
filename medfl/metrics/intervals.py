"""95 % intervals by cluster bootstrap: whole source groups are drawn with replacement, never single patches.

Patches of one group (a patient, a slide, a tile and its augmented copies) are alike, so they carry less
information than as many independent patches; an interval that ignores this is far too narrow (Field and Welsh
2007, doi:10.1111/j.1467-9868.2007.00593.x; Davison and Hinkley 1997, ch. 3.8). One set of resamples serves
every figure. AUROC needs one sort per class; everything else is a matrix product of multiplicities and the
per-group sums. docs/metrics.md gives the reasons for each rule here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medfl.metrics.auroc import FloatArray, IndexArray, IntArray, auroc_per_class, compare, mean_auroc
from medfl.metrics.calibration import ScoreSums, group_sums, score_sums

ALPHA = 0.05
FEW_GROUPS = 5
"""Below this many groups (in all, or on either side of a supported class) an interval is marked as shaky."""
CHUNK_ELEMENTS = 200_000
"""Resamples x patches handled at once, so that memory stays flat whatever the size of the site."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class GroupSupport:
    """How many source groups stand behind each class.

    Attributes:
        n_groups: groups in all.
        positive: int [C], groups with at least one patch of the class.
        negative: int [C], groups with at least one patch of another class.
    """

    n_groups: int
    positive: IndexArray
    negative: IndexArray

    def few(self) -> bool:
        """Whether any interval rests on fewer than FEW_GROUPS groups (only supported classes are asked)."""
        smaller = np.minimum(self.positive, self.negative)
        return self.n_groups < FEW_GROUPS or bool((smaller[smaller > 0] < FEW_GROUPS).any())

    def pairs(self) -> IndexArray:
        """int [C]: the most disjoint pairs (group with positives, other group with negatives) one can form."""
        return np.minimum(np.minimum(self.positive, self.negative), self.n_groups // 2)


@dataclass(frozen=True)
class Intervals:
    """95 % intervals (low, high); None where the groups cannot show any variation."""

    auroc: Interval | None
    auroc_per_class: tuple[Interval | None, ...]
    balanced_accuracy: Interval | None
    ece: Interval | None
    classwise_ece: Interval | None
    brier: Interval | None
    nll: Interval | None


def group_support(labels: IntArray, group: IndexArray, n_groups: int, n_classes: int) -> GroupSupport:
    """Count the groups behind each class; `group [N]` holds 0 to n_groups - 1."""
    cell = np.bincount(group * n_classes + labels, minlength=n_groups * n_classes)
    table = cell.reshape(n_groups, n_classes)
    others = table.sum(axis=1, keepdims=True) - table
    return GroupSupport(n_groups, (table > 0).sum(axis=0), (others > 0).sum(axis=0))


def multiplicities(rng: np.random.Generator, n_groups: int, resamples: int) -> FloatArray:
    """Draw `resamples` times n_groups groups with replacement: how often each came, float [R, G]."""
    draws = rng.integers(0, n_groups, size=(resamples, n_groups))
    cell = draws + n_groups * np.arange(resamples)[:, None]
    counts = np.bincount(cell.ravel(), minlength=resamples * n_groups)
    return counts.astype(np.float64).reshape(resamples, n_groups)


def perfect_bound(groups: IntArray | int) -> FloatArray:
    """Lower 97.5 % bound of a success rate when `groups` independent trials all succeeded: (alpha/2)^(1/d).

    Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404, for d successes in d trials; about 1 - 3.7/d.
    Zero trials say nothing: the bound is 0.
    """
    trials = np.asarray(groups, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray((ALPHA / 2) ** (1.0 / trials))


def percentile_interval(point: float, resampled: FloatArray) -> Interval:
    """Central 95 % of the resampled values, widened if needed to contain the point estimate."""
    low, high = np.percentile(resampled, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return min(float(low), point), max(float(high), point)


def reflected_interval(point: float, resampled: FloatArray) -> Interval:
    """The percentile interval mirrored at the point estimate ("basic" bootstrap), cut to [0, 1].

    For figures that resampling pushes up (a mean of absolute gaps): the percentiles would carry that upward
    bias twice, the mirrored ones take it off once. Contains the point estimate.
    """
    low, high = np.percentile(resampled, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)])
    return max(0.0, min(2 * point - float(high), point)), min(1.0, max(2 * point - float(low), point))


def share_interval(point: float, resampled: FloatArray, bound: float) -> Interval | None:
    """Percentile interval of a share; at exactly 1 or 0 resampling shows nothing and `bound` takes over."""
    if point == 1.0:
        return bound, 1.0
    if point == 0.0:
        return 0.0, 1.0 - bound
    usable = resampled[~np.isnan(resampled)]
    return percentile_interval(point, usable) if len(usable) else None


def cluster_bootstrap(
    probs: FloatArray,
    labels: IntArray,
    group: IndexArray,
    n_groups: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
    bins: int = 15,
) -> Intervals:
    """Intervals of all figures from `resamples` draws of the source groups. Deterministic in `seed`.

    Args:
        probs: softmax probabilities [N, C], N > 0.
        labels: true class [N].
        group: source group [N], 0 to n_groups - 1, each used.
        n_groups: G; below 2 every interval is None.
        resamples: R.
        seed: any non-negative integer.
        bins: calibration bins.

    A resample in which a class lost its support leaves that class out of its mean.
    """
    n_classes = probs.shape[1]
    if n_groups < 2:
        return Intervals(None, (None,) * n_classes, None, None, None, None, None)
    support = group_support(labels, group, n_groups, n_classes)
    point = auroc_per_class(probs, labels)
    sums = group_sums(probs, labels, group, n_groups, bins)
    total = score_sums(probs, labels, bins)  # not sums.total(): the point estimate to the last bit

    comparisons = [compare(probs[:, c], labels == c, group) for c in range(n_classes)]
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK_ELEMENTS // len(labels))
    auroc_parts, figure_parts = [], []
    for start in range(0, resamples, step):
        drawn = multiplicities(rng, n_groups, min(step, resamples - start))
        by_group = np.ascontiguousarray(drawn.T)
        auroc_parts.append(np.stack([comparison.auroc(by_group) for comparison in comparisons], axis=1))
        figure_parts.append(_figures(sums.resample(drawn)))
    aurocs = np.concatenate(auroc_parts)
    balanced, ece, classwise, brier, nll = np.concatenate(figure_parts, axis=1)

    varies = (support.positive >= 2) & (support.negative >= 2)
    separated = perfect_bound(support.pairs())
    auroc = None
    if varies.any():
        bound = float(separated[~np.isnan(point)].mean())
        auroc = share_interval(float(mean_auroc(point)), mean_auroc(aurocs), bound)
    all_recalled = float(perfect_bound(support.positive[support.positive > 0]).mean())
    return Intervals(
        auroc=auroc,
        auroc_per_class=tuple(
            share_interval(float(point[c]), aurocs[:, c], float(separated[c])) if varies[c] else None
            for c in range(n_classes)
        ),
        balanced_accuracy=share_interval(float(total.balanced_accuracy()), balanced, all_recalled),
        ece=reflected_interval(float(total.ece()), ece),
        classwise_ece=reflected_interval(float(total.classwise_ece()), classwise),
        brier=percentile_interval(float(total.brier()), brier),
        nll=percentile_interval(float(total.nll()), nll),
    )


def _figures(sums: ScoreSums) -> FloatArray:
    """The bootstrapped figures but AUROC of R resamples, [5, R]."""
    return np.stack([sums.balanced_accuracy(), sums.ece(), sums.classwise_ece(), sums.brier(), sums.nll()])
