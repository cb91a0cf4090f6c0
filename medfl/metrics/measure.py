"""All figures of one site in one JSON-ready dict, and how they are printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.metrics.auroc import FloatArray, IndexArray, auroc_per_class, mean_auroc
from medfl.metrics.calibration import ScoreSums, bin_edges, score_sums
from medfl.metrics.intervals import Interval, Intervals, group_support, site_intervals

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
        resamples: bootstrap resamples of the source groups; 0 leaves intervals, `auroc_se` and reliability out.
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
    n_classes = len(classes)
    support = group_support(y, group, n_groups, n_classes)
    patches = np.bincount(y, minlength=n_classes)
    per_class = auroc_per_class(p, y)
    sums = score_sums(p, y, bins)
    nll = figure(sums.nll())
    result: dict[str, Any] = {
        "n": len(y),
        "n_groups": n_groups,
        "few_groups": support.few(),
        "supported_classes": [name for name, value in zip(classes, per_class, strict=True) if value == value],
        "support": {
            name: {"patches": int(patches[c]), "groups": int(support.positive[c])} for c, name in enumerate(classes)
        },
        "auroc": figure(mean_auroc(per_class)),
        "auroc_per_class": dict(zip(classes, map(figure, per_class), strict=True)),
        "balanced_accuracy": figure(sums.balanced_accuracy()),
        "accuracy": figure(sums.accuracy()),
        "loss": nll if loss is None or len(y) == 0 else float(loss),
        "ece": figure(sums.ece()),
        "classwise_ece": figure(sums.classwise_ece()),
        "brier": figure(sums.brier()),
        "nll": nll,
        "confusion": sums.confusion.astype(int).tolist(),
    }
    if resamples > 0:
        intervals = site_intervals(p, y, group, n_groups, resamples=resamples, seed=seed, bins=bins)
        result |= _interval_entries(intervals, classes)
        result["reliability"] = reliability(sums)
    return result


def mean_supported(values: Iterable[float | None]) -> float | None:
    """Mean of the values that exist; None when none does."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def format_interval(
    value: float | None,
    ci: Sequence[float] | None,
    digits: int = 3,
    few_groups: bool = False,
) -> str:
    """Print a figure with its interval: `0.943 [0.901, 0.972]`, `0.943 [0.90, 0.97] few groups`, `n/a`.

    Few groups print their interval with one digit less: more would be pretence. Rounding never closes an
    interval onto a perfect value: a lower bound below 1 is not printed as 1, nor an upper bound above 0 as 0.
    """
    if value is None or not math.isfinite(value):
        return "n/a"
    text = f"{value:.{digits}f}"
    if ci is None or (ci[0] == ci[1] and ci[0] in (0.0, 1.0)):
        text += " [n/a]"
    else:
        shown = max(1, digits - 1) if few_groups else digits
        unit = 10.0**-shown
        low = min(ci[0], 1.0 - unit) if ci[0] < 1.0 else ci[0]
        high = max(ci[1], unit) if ci[1] > 0.0 else ci[1]
        text += f" [{low:.{shown}f}, {high:.{shown}f}]"
    return text + (" few groups" if few_groups else "")


def figure(value: FloatArray | float) -> float | None:
    """A figure as JSON knows it: None where it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None


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
    def pair(interval: Interval | None) -> list[float] | None:
        return None if interval is None else list(interval)

    return {
        "auroc_ci": pair(intervals.auroc),
        "auroc_se": intervals.auroc_se,
        "auroc_per_class_ci": dict(zip(classes, map(pair, intervals.auroc_per_class), strict=True)),
        "balanced_accuracy_ci": pair(intervals.balanced_accuracy),
        "ece_ci": pair(intervals.ece),
        "classwise_ece_ci": pair(intervals.classwise_ece),
        "brier_ci": pair(intervals.brier),
        "nll_ci": pair(intervals.nll),
    }


def reliability(sums: ScoreSums) -> dict[str, Any]:
    """What a reliability diagram of the top probability draws, bin by bin."""
    top = sums.top
    return {
        "edges": bin_edges(len(top.count)).tolist(),
        "count": top.count.astype(int).tolist(),
        "confidence": [figure(value) for value in top.confidence()],
        "accuracy": [figure(value) for value in top.accuracy()],
    }
