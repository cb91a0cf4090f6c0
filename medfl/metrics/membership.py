"""Membership inference by loss: can training patches be told from others by how well the model knows them?

S. Yeom et al., "Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting", arXiv 1709.01604, section
3.2: call a patch a training patch where the model's loss on it is below a threshold. Over all thresholds the AUROC of
the negative loss says how well that works: 0.5 is chance, 1 tells every one. Its interval is that of every AUROC here,
over source groups. Stronger attacks exist, so a value near 0.5 proves nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from medfl.metrics.auroc import FloatArray, IntArray, binary_auroc
from medfl.metrics.calibration import SMALLEST_PROBABILITY
from medfl.metrics.delong import clustered_delong
from medfl.metrics.group_support import group_support
from medfl.metrics.intervals import least_errors
from medfl.metrics.t_intervals import share_interval


def losses(probs: FloatArray, labels: IntArray) -> FloatArray:
    """Log loss of each patch, f64[N], from `probs [N, C]`."""
    own = probs[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.maximum(own, SMALLEST_PROBABILITY)))


def membership(
    members: FloatArray, others: FloatArray, member_groups: IntArray, other_groups: IntArray
) -> dict[str, Any]:
    """How well a threshold on the loss tells training patches from others.

    Args:
        members, others: losses [M], [O] of patches that were trained on, and of patches of the same site that were not.
        member_groups, other_groups: their source groups, numbered alike.

    Returns:
        {"auroc", "auroc_ci" (95 %, over source groups), "few_groups", "n_members", "n_others"}; None where there is
        nothing to compare, or no interval.
    """
    scores = -np.concatenate([members, others])
    member = np.arange(len(scores)) < len(members)
    names, group = np.unique(np.concatenate([member_groups, other_groups]), return_inverse=True)
    result: dict[str, Any] = {"auroc": None, "auroc_ci": None, "few_groups": True}
    result |= {"n_members": len(members), "n_others": len(others)}
    if not len(members) or not len(others):
        return result
    labels = member.astype(np.int64)
    support = group_support(labels, group, len(names), 2)
    variance = clustered_delong(np.stack([-scores, scores], axis=1), labels, group, len(names))
    auroc, squared, df = binary_auroc(scores, member), variance.per_class[1], variance.df_per_class[1]
    result |= {"auroc": auroc, "few_groups": support.few()}
    least = least_errors(support)[1]
    if least is not None:
        interval = share_interval(auroc, math.sqrt(squared), float(df), least.bound)
        result["auroc_ci"] = None if interval is None else list(interval)
    return result
