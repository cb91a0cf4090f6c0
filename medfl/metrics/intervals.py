"""95 % intervals from whole source groups, never from single patches.

Patches of one group (a patient, a slide, a tile and its augmented copies) are alike, so they carry less information
than as many independent patches; an interval that ignores this is far too narrow. The standard error of AUROC is its
clustered variance (`medfl.metrics.delong`), that of every other figure comes from a cluster bootstrap: groups are drawn
with replacement (Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x; Davison and Hinkley 1997, ch. 3.8), which
for sums over groups is one matrix product. Shares have a t interval on the logit scale, losses one on the log scale,
calibration errors one of their own. docs/metrics.md gives the reasons for each rule here and says how often the
intervals hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from medfl.metrics.auroc import FloatArray, IndexArray, IntArray, auroc_per_class, mean_auroc
from medfl.metrics.calibration import SMALLEST_PROBABILITY, ScoreSums, group_sums, score_sums
from medfl.metrics.delong import AurocVariance, clustered_delong
from medfl.metrics.group_support import GroupSupport, group_support
from medfl.metrics.t_intervals import ALPHA, Interval, log_interval, logit_t, share_interval, t_quantile

CHUNK_ELEMENTS = 2_000_000
"""Resamples x groups drawn at once, so that memory stays flat whatever the size of the site."""
LARGEST_BRIER = 2.0
LARGEST_NLL = -math.log(SMALLEST_PROBABILITY)


@dataclass(frozen=True)
class LeastError:
    """The least that groups can show of an AUROC below 1: half a pair of them, one positive, one negative, misordered.

    Attributes:
        error: 1 - AUROC with that error, 1 / (2 pairs); for several AUROCs their mean, each with its own.
        se: the standard error that it has by DeLong's variance, sqrt(2) times as much; of the mean of sites less.
        df: degrees of freedom of `se`.
    """

    error: float
    se: float
    df: float

    @property
    def bound(self) -> float:
        """Lower end of the interval of an AUROC of exactly 1: that of one with this error."""
        if self.error >= 0.5:
            return 0.0
        low, _ = logit_t(1.0 - self.error, self.se, self.df)
        return low


@dataclass(frozen=True)
class Intervals:
    """95 % intervals (low, high), None where the groups show no variation, and what the mean AUROC's rests on."""

    auroc: Interval | None
    auroc_se: float | None
    auroc_df: float | None
    auroc_least: LeastError | None
    auroc_per_class: tuple[Interval | None, ...]
    balanced_accuracy: Interval | None
    ece: Interval | None
    classwise_ece: Interval | None
    brier: Interval | None
    nll: Interval | None


def multiplicities(rng: np.random.Generator, n_groups: int, resamples: int) -> FloatArray:
    """Draw `resamples` times n_groups groups with replacement: how often each came, float [R, G]."""
    draws = rng.integers(0, n_groups, size=(resamples, n_groups))
    cell = draws + n_groups * np.arange(resamples)[:, None]
    counts = np.bincount(cell.ravel(), minlength=resamples * n_groups)
    return counts.astype(np.float64).reshape(resamples, n_groups)


def standard_error(resampled: FloatArray, n_groups: int) -> float:
    """Standard deviation of the resampled values times sqrt(G / (G - 1)), G >= 2; values that are nan do not count.

    The factor is there because resampling G groups shows (G - 1) / G of their variance.
    """
    usable = resampled[~np.isnan(resampled)]
    return math.sqrt(n_groups / (n_groups - 1)) * float(usable.std()) if len(usable) else 0.0


def tail(n_groups: int) -> float:
    """The share of resampled values to leave out at either end: 2.5 % with many groups, less with few.

    Where a normal distribution has its percentiles at the t quantile times sqrt(G / (G - 1)) (the "expanded percentile"
    interval of Hesterberg 2015, doi:10.1080/00031305.2015.1089789).
    """
    return NormalDist().cdf(-math.sqrt(n_groups / (n_groups - 1)) * t_quantile(n_groups - 1))


def perfect_bound(groups: IntArray | int) -> FloatArray:
    """Lower 97.5 % bound of a success rate when `groups` independent trials all succeeded: (alpha/2)^(1/d).

    Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404, for d successes in d trials; about 1 - 3.7/d.
    Zero trials say nothing: the bound is 0.
    """
    trials = np.asarray(groups, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray((ALPHA / 2) ** (1.0 / trials))


def perfect_recall_bound(groups: IntArray) -> float:
    """Lower 97.5 % bound of a mean of recalls, all exactly 1, that rest on `groups [C]` independent groups each.

    The least mean of shares r_c under which all groups succeed with probability alpha/2, prod r_c^groups_c = alpha/2;
    at the least mean r_c = min(1, x groups_c). For one class it is `perfect_bound`.
    """
    trials = np.asarray(groups, dtype=np.float64)
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        with np.errstate(divide="ignore"):
            success = float((trials * np.log(np.minimum(1.0, x * trials))).sum())
        low, high = (low, x) if success > math.log(ALPHA / 2) else (x, high)
    return float(np.minimum(1.0, low * trials).mean())


def least_errors(support: GroupSupport) -> list[LeastError | None]:
    """The least error of each class's AUROC; None with fewer than 2 groups on a side."""
    errors: list[LeastError | None] = []
    for m, k, pairs in zip(support.positive, support.negative, support.pairs(), strict=True):
        if min(m, k) < 2:
            errors.append(None)
            continue
        df = min(4 / (1 / (m - 1) + 1 / (k - 1)), support.n_groups - 1)
        errors.append(LeastError(0.5 / pairs, math.sqrt(2) * 0.5 / pairs, float(df)))
    return errors


def least_error_of_mean(errors: Iterable[LeastError | None]) -> LeastError | None:
    """That of the mean over classes, all of them in error at once; None without any."""
    finite = [error for error in errors if error is not None]
    if not finite:
        return None
    error, se = (math.fsum(values) / len(finite) for values in zip(*((e.error, e.se) for e in finite), strict=True))
    return LeastError(error, se, min(e.df for e in finite))


def calibration_interval(gap: FloatArray, resampled: FloatArray, n_groups: int) -> Interval | None:
    """Interval of a calibration error from its gaps `gap [C, B]` and those of R resamples `resampled [R, C, B]`.

    A calibration error sums absolute gaps, so noise can only push it up, and resampling adds the noise once more.
    From below: the noise alone, whose size the resamples show, must not explain the error, else the bound is 0; if it
    does not, its part is taken off every squared gap, and the bootstrap starts from these gaps. From above: the
    estimate being too high on average, it is left where it is and only its spread is added. None without any spread.
    """
    error, point = resampled - gap, float(_size(gap))
    se, outside = standard_error(_size(resampled), n_groups), tail(n_groups)
    if se == 0.0:
        return None
    low = 0.0
    if point > np.quantile(_size(error), 1 - outside):
        cleaned = np.sign(gap) * np.sqrt(np.maximum(gap**2 - error.var(axis=0), 0.0))
        low = point - float(np.quantile(_size(cleaned + error), 1 - outside) - _size(cleaned))
    return max(0.0, min(low, point)), min(1.0, point + t_quantile(n_groups - 1) * se)


def _size(gap: FloatArray) -> FloatArray:
    """Calibration error of gaps [..., C, B]: summed over bins, mean over classes."""
    return np.asarray(np.abs(gap).sum(axis=-1).mean(axis=-1))


def site_intervals(
    probs: FloatArray,
    labels: IntArray,
    group: IndexArray,
    n_groups: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
    bins: int = 15,
) -> Intervals:
    """Intervals of all figures of one site; those but AUROC's from `resamples` draws, deterministic in `seed`.

    Args:
        probs: softmax probabilities [N, C], N > 0.
        labels: true class [N].
        group: source group [N], 0 to n_groups - 1, each used.
        n_groups: G; below 2 every interval is None.
        resamples: R, at least 1.
        seed: any non-negative integer.
        bins: calibration bins.
    """
    n_classes = probs.shape[1]
    if n_groups < 2:
        return Intervals(None, None, None, None, (None,) * n_classes, None, None, None, None, None)
    support = group_support(labels, group, n_groups, n_classes)
    auroc, variance, least, auroc_of_class = _auroc_intervals(probs, labels, group, support)
    total = score_sums(probs, labels, bins)  # not sums.total(): the point estimate to the last bit
    balanced, brier, nll, top, classwise = _resampled(
        group_sums(probs, labels, group, n_groups, bins), n_groups, resamples, seed
    )
    se_balanced, se_brier, se_nll = (standard_error(values, n_groups) for values in (balanced, brier, nll))
    df = n_groups - 1
    all_recalled = perfect_recall_bound(support.positive[support.positive > 0])
    return Intervals(
        auroc=auroc,
        # Where nothing varies, as at a perfect AUROC, the variance says nothing about precision.
        auroc_se=math.sqrt(variance.mean) if variance.mean > 0 else None,
        auroc_df=variance.df_mean if variance.mean > 0 else None,
        auroc_least=least,
        auroc_per_class=auroc_of_class,
        balanced_accuracy=share_interval(float(total.balanced_accuracy()), se_balanced, df, all_recalled),
        ece=calibration_interval(total.top.gap()[None], top[:, None], n_groups),
        classwise_ece=calibration_interval(total.classwise.gap(), classwise, n_groups),
        brier=log_interval(float(total.brier()), se_brier, df, LARGEST_BRIER),
        nll=log_interval(float(total.nll()), se_nll, df, LARGEST_NLL),
    )


def _auroc_intervals(
    probs: FloatArray, labels: IntArray, group: IndexArray, support: GroupSupport
) -> tuple[Interval | None, AurocVariance, LeastError | None, tuple[Interval | None, ...]]:
    """Interval of the mean AUROC, its variance and least error, and the interval of every class's."""
    point = auroc_per_class(probs, labels)
    variance, least = clustered_delong(probs, labels, group, support.n_groups), least_errors(support)
    per_class = tuple(
        None if error is None else share_interval(float(auroc), math.sqrt(square), float(df), error.bound)
        for auroc, square, df, error in zip(point, variance.per_class, variance.df_per_class, least, strict=True)
    )
    of_mean = least_error_of_mean(least)
    if of_mean is None:
        return None, variance, None, per_class
    mean = float(mean_auroc(point))
    interval = share_interval(mean, math.sqrt(variance.mean), variance.df_mean, of_mean.bound)
    return interval, variance, of_mean, per_class


def _resampled(
    sums: ScoreSums, n_groups: int, resamples: int, seed: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Balanced accuracy, Brier and NLL [R], gaps of the top [R, B] and of every class's probability [R, C, B]."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK_ELEMENTS // n_groups)
    parts = []
    for start in range(0, resamples, step):
        drawn = sums.resample(multiplicities(rng, n_groups, min(step, resamples - start)))
        parts.append((drawn.balanced_accuracy(), drawn.brier(), drawn.nll(), drawn.top.gap(), drawn.classwise.gap()))
    balanced, brier, nll, top, classwise = (np.concatenate(part) for part in zip(*parts, strict=True))
    return balanced, brier, nll, top, classwise
