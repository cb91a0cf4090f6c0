"""Sensitivity and specificity at a threshold that was chosen beforehand, with intervals over source groups."""

from __future__ import annotations

from typing import Any

import numpy as np

from medfl.metrics.auroc import BoolArray, FloatArray, IndexArray, ratio
from medfl.metrics.intervals import multiplicities, perfect_bound, standard_error
from medfl.metrics.t_intervals import share_interval

RATES = ("sensitivity", "specificity")


def operating_point(
    scores: FloatArray,
    positive: BoolArray,
    group: IndexArray,
    n_groups: int,
    threshold: float | None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Call a patch positive when its score is at least `threshold`, and count how often that is right.

    Args:
        scores: score of each patch for the target [N].
        positive: patches of the target, bool [N].
        group: source group [N], 0 to n_groups - 1.
        n_groups: G.
        threshold: None where there was nothing to choose it by; then only the counts are known.
        resamples: draws of the source groups; 0 leaves the intervals None.
        seed: of the draws.

    Returns:
        {"threshold", "positives", "negatives", "sensitivity", "sensitivity_ci", "specificity", "specificity_ci"},
        ready for JSON. A rate without patches is None, and so is an interval with fewer than 2 groups behind it.
    """
    result: dict[str, Any] = {
        "threshold": None if threshold is None else float(threshold),
        "positives": int(np.count_nonzero(positive)),
        "negatives": int(np.count_nonzero(~positive)),
    }
    right = None if threshold is None else (scores >= threshold) == positive
    for name, side in zip(RATES, (positive, ~positive), strict=True):
        result[name] = result[f"{name}_ci"] = None
        if right is None or not side.any():
            continue
        patches = np.bincount(group[side], minlength=n_groups).astype(np.float64)
        hits = np.bincount(group[side & right], minlength=n_groups).astype(np.float64)
        rate = float(hits.sum() / patches.sum())
        result[name] = rate
        behind = int(np.count_nonzero(patches))
        if resamples > 0 and behind >= 2:
            drawn = multiplicities(np.random.default_rng(seed), n_groups, resamples)
            se = standard_error(ratio(drawn @ hits, drawn @ patches), behind)
            interval = share_interval(rate, se, behind - 1, float(perfect_bound(behind)))
            result[f"{name}_ci"] = None if interval is None else list(interval)
    return result
