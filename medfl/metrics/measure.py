"""All figures of one site in one JSON-ready dict: every row of the table of figures, and what stands behind them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.metrics import figures
from medfl.metrics.auroc import FloatArray, IndexArray, IntArray, auroc_per_class
from medfl.metrics.calibration import ScoreSums, bin_edges, score_sums, top_bins
from medfl.metrics.figures import ScoredPatches, finite
from medfl.metrics.group_support import group_support
from medfl.metrics.intervals import Intervals, site_intervals
from medfl.metrics.t_intervals import Interval

SUM_TOLERANCE = 0.02
"""Rows of half-precision softmax sum to 1 within this; logits do not."""


def measure(
    probs: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    classes: Sequence[str],
    *,
    resamples: int = 0,
    seed: int = 0,
    bins: int = 15,
    loss: float | None = None,
) -> dict[str, Any]:
    """Measure a classifier on one site's patches.

    Args:
        probs: softmax probabilities [N, C].
        labels: index of the true class [N].
        groups: source group of each patch [N], any integers.
        classes: the C class names in index order.
        resamples: bootstrap resamples of the source groups; 0 leaves intervals, what they rest on and reliability out.
        seed: seed of the bootstrap.
        bins: equal-width calibration bins.
        loss: the training loss on these patches where it differs from the NLL (class weights).

    Returns:
        A dict of Python numbers, strings, lists and None ("not available"); never nan or inf. Counts of an
        empty input are 0, its figures None. Keys and definitions: docs/metrics.md.

    Raises:
        ValueError: shapes do not fit, a label is out of range, probabilities are not finite or are no
            probabilities, or `loss` is not finite.
    """
    p, y, group, n_groups = _checked(probs, labels, groups, classes)
    if loss is not None and not math.isfinite(loss):
        raise ValueError(f"loss is {loss}")
    per_class = auroc_per_class(p, y)
    by_group = top_bins(p, y, group, n_groups, bins)
    patches = ScoredPatches(score_sums(p, y, bins), per_class, loss if len(y) else None, p, y, by_group)
    result: dict[str, Any] = {"n": len(y), "n_groups": n_groups, **_support(y, group, n_groups, classes, per_class)}
    for row in figures.FIGURES:
        result[row.key] = finite(row.value(patches))
        if row.per_class is not None:
            result[f"{row.key}_per_class"] = dict(zip(classes, map(finite, row.per_class(patches)), strict=True))
    result["confusion"] = patches.sums.confusion.astype(int).tolist()
    if resamples > 0:
        intervals = site_intervals(p, y, group, n_groups, resamples=resamples, seed=seed, bins=bins)
        result |= _interval_entries(intervals, classes)
        result["reliability"] = reliability(patches.sums)
    return result


def _support(
    labels: IntArray, group: IndexArray, n_groups: int, classes: Sequence[str], per_class: FloatArray
) -> dict[str, Any]:
    """What stands behind the figures: patches and source groups of each class, and which classes have an AUROC."""
    support = group_support(labels, group, n_groups, len(classes))
    patches = np.bincount(labels, minlength=len(classes))
    return {
        "few_groups": support.few(),
        "supported_classes": [name for name, value in zip(classes, per_class, strict=True) if value == value],
        "support": {
            name: {"patches": int(patches[c]), "groups": int(support.positive[c])} for c, name in enumerate(classes)
        },
    }


def mean_supported(values: Iterable[float | None]) -> float | None:
    """Mean of the values that exist; None when none does."""
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present else None


def _checked(
    probs: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    classes: Sequence[str],
) -> tuple[FloatArray, NDArray[np.int64], IndexArray, int]:
    """Check the arrays; return probs f64, labels, groups renumbered from 0 and the number of groups."""
    p, y, g = np.asarray(probs), np.asarray(labels), np.asarray(groups)
    n_classes = len(classes)
    if len(set(classes)) != n_classes:
        raise ValueError(f"class names are not unique: {list(classes)}")
    if p.ndim != 2 or p.shape[1] != n_classes:
        raise ValueError(f"probs have shape {p.shape}, expected [N, {n_classes}]")
    for name, array in (("labels", y), ("groups", g)):
        if array.shape != p.shape[:1]:
            raise ValueError(f"{name} have shape {array.shape}, expected [{len(p)}]")
        if len(array) and array.dtype.kind not in "iu":
            raise ValueError(f"{name} must be integers, not {array.dtype}")
    p = p.astype(np.float64)
    bad = int(np.count_nonzero(~np.isfinite(p)))
    if bad:
        raise ValueError(f"{bad} of {p.size} probabilities are not finite")
    outside = np.count_nonzero((p < 0).any(axis=1) | (np.abs(p.sum(axis=1) - 1.0) > SUM_TOLERANCE))
    if outside:
        raise ValueError(f"{outside} of {len(p)} rows of probs are no probabilities (logits?)")
    wrong = int(np.count_nonzero((y < 0) | (y >= n_classes)))
    if wrong:
        raise ValueError(f"{wrong} of {len(y)} labels are outside 0 to {n_classes - 1}")
    names, group = np.unique(g, return_inverse=True)
    return p, y.astype(np.int64), group.astype(np.intp), len(names)


def _interval_entries(intervals: Intervals, classes: Sequence[str]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for row in figures.FIGURES:
        if row.interval is not None:
            entries[f"{row.key}_ci"] = _pair(row.interval(intervals))
        if row.key == "auroc":
            least = intervals.auroc_least
            entries |= {"auroc_se": intervals.auroc_se, "auroc_df": intervals.auroc_df}
            entries["auroc_least"] = None if least is None else dataclasses.asdict(least)
            entries["auroc_per_class_ci"] = dict(zip(classes, map(_pair, intervals.auroc_per_class), strict=True))
    return entries


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def reliability(sums: ScoreSums) -> dict[str, Any]:
    """What a reliability diagram of the top probability draws, bin by bin."""
    top = sums.top
    return {
        "edges": bin_edges(len(top.count)).tolist(),
        "count": top.count.astype(int).tolist(),
        "confidence": [finite(value) for value in top.confidence()],
        "accuracy": [finite(value) for value in top.accuracy()],
    }
