"""Calibration error without its noise, and the noise alone, where patches of one source group are alike.

Both start from the gap of every bin by source group, r_gb = hits - summed confidence, since groups and not patches are
the independent draws. docs/metrics.md has the simulation by which the two were chosen.
"""

from __future__ import annotations

import math

import numpy as np

from medfl.metrics.auroc import FloatArray, ratio
from medfl.metrics.calibration import CalibrationBins


def clustered_squared_error(by_group: CalibrationBins) -> float:
    """sum_b (n_b / N) (gap_b^2 - v_b), of either sign and 0 on average where the model is calibrated.

    Kumar et al. 2019, arXiv:1909.10155, section 4.1, with the noise of a bin from its source groups: v_b is the
    variance of the ratio gap_b = sum_g r_gb / n_b over its G_b groups, G_b / (G_b - 1) sum_g (r_gb - gap_b n_gb)^2 /
    n_b^2 (Cochran 1977, section 6.3). With one patch a group it is Kumar's to the order of 1 / n_b. A bin of one group
    says nothing of its noise and counts 0; nan where every bin is such a one.

    Args:
        by_group: the bins of every source group, [G, B].
    """
    residual, gap, patches, groups = _gaps(by_group)
    several = groups > 1
    if not several.any():
        return math.nan
    spread = ((residual - gap * by_group.count) ** 2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = groups / (groups - 1) * spread / patches**2
        parts = np.where(several, patches * (gap**2 - variance), 0.0)
    return float(parts.sum() / patches.sum())


def clustered_debiased_ece(by_group: CalibrationBins) -> float:
    """Root of `clustered_squared_error`, 0 where that is negative; nan where nothing tells of the noise."""
    squared = clustered_squared_error(by_group)
    return math.nan if math.isnan(squared) else math.sqrt(max(squared, 0.0))


def noise_of_ece(by_group: CalibrationBins) -> float:
    """The ECE that a calibrated model would show in these bins on average, from chance alone; nan without patches.

    sum_b (n_b / N) sqrt(2 c_b (1 - c_b) / (pi m_b)): the mean of |x| of a normal x is its deviation times sqrt(2 / pi),
    and m_b = n_b / `design_effect`, at least G_b, is the number of draws behind a bin of mean confidence c_b.
    """
    _, _, patches, groups = _gaps(by_group)
    if not patches.sum():
        return math.nan
    confidence = np.clip(np.nan_to_num(ratio(by_group.confidence_sum.sum(axis=0), patches)), 0.0, 1.0)
    draws = np.maximum(np.maximum(groups, patches / design_effect(by_group)), 1.0)
    spread = np.sqrt(confidence * (1 - confidence) / draws)
    return float(math.sqrt(2 / math.pi) * (patches * spread).sum() / patches.sum())


def design_effect(by_group: CalibrationBins) -> float:
    """How many patches say as much as one independent patch (Kish 1965): the variance of the groups' hits around the
    overall gap over that of independent patches, from 1 to the mean number of patches of a group."""
    residual, _, patches, _ = _gaps(by_group)
    sizes = by_group.count.sum(axis=1)
    n_groups, total = int(np.count_nonzero(sizes)), float(patches.sum())
    if not n_groups:
        return 1.0
    confidence = np.nan_to_num(ratio(by_group.confidence_sum.sum(axis=0), patches))
    independent = float((patches * confidence * (1 - confidence)).sum())
    if n_groups == 1 or independent <= 0:
        return total / n_groups
    own = residual.sum(axis=1) - sizes * residual.sum() / total
    effect = n_groups / (n_groups - 1) * float((own**2).sum()) / independent
    return min(max(effect, 1.0), total / n_groups)


def _gaps(by_group: CalibrationBins) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Residuals [G, B], and per bin the gap (0 where it is empty), the patches and the source groups, [B]."""
    residual = by_group.correct_sum - by_group.confidence_sum
    patches = by_group.count.sum(axis=0)
    groups = np.count_nonzero(by_group.count, axis=0).astype(np.float64)
    return residual, np.nan_to_num(ratio(residual.sum(axis=0), patches)), patches, groups
