"""Two models on the same patches: how far their figures differ, with standard errors over source groups.

Every figure's difference is, to first order, a sum over source groups of how far each pulls it, its influence u_g. Of
AUROC that is the difference of DeLong's components (see `delong`); of a share or a mean loss d over n patches it is

    u_g = f / n  sum over patches i of g of (d_i - d)

where d_i is the difference at one patch and f^2 = I / (I - 1) corrects for I, the groups that hold such patches. The
variance is the sum of u_g^2, with Satterthwaite's degrees of freedom over strata of groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.metrics.auroc import BoolArray, FloatArray, IndexArray, IntArray
from medfl.metrics.delong import class_table, degrees_of_freedom, mean_influence
from medfl.metrics.group_figures import mean_error
from medfl.metrics.measure import measure
from medfl.metrics.t_intervals import Interval, t_quantile
from medfl.metrics.targets import MALIGNANT, target_scores, target_truth, targets

MEASURED = ("auroc", "balanced_accuracy", "brier", "ece")
"""Figures of `measure` that are compared; the ECE without an interval, since it is no sum over groups."""
RATES = {"sensitivity": True, "specificity": False}


@dataclass(frozen=True)
class PairedFigure:
    """A figure of two models on the same patches.

    Attributes:
        one, other: the figure of each.
        se: standard error of the difference `one - other`; None where nothing is known to vary.
        df: its degrees of freedom.
        influence: of each source group on the difference, f64[G]; None where it is not known or sites were averaged.
    """

    one: float
    other: float
    se: float | None = None
    df: float | None = None
    influence: FloatArray | None = None

    @property
    def difference(self) -> float:
        """`one - other`."""
        return self.one - self.other

    def interval(self) -> Interval | None:
        """95 % interval of the difference, inside [-1, 1] where both figures are shares; None without an error."""
        if self.se is None or self.df is None:
            return None
        half = t_quantile(max(self.df, 1.0)) * self.se
        reach = 1.0 if max(self.one, self.other) <= 1.0 else 2.0
        return max(-reach, self.difference - half), min(reach, self.difference + half)


def paired_figures(
    probs: tuple[FloatArray, FloatArray],
    labels: NDArray[np.int64],
    group: NDArray[np.int64],
    classes: Sequence[str],
    malignant: Sequence[str] = (),
    thresholds: tuple[Mapping[str, float] | None, Mapping[str, float] | None] = (None, None),
    bins: int = 15,
) -> dict[str, PairedFigure]:
    """Figures of two models on one site's patches.

    Args:
        probs: calibrated probabilities [N, C] of each model.
        labels: true class [N].
        group: source group [N], 0 to G - 1, each with a patch.
        classes: names of the C classes.
        malignant: those of them that are.
        thresholds: target -> score from which each model calls a patch positive.
        bins: of the ECE.
    """
    n_groups = int(group.max(initial=-1)) + 1
    measured = [measure(p, labels, group, classes, bins=bins) for p in probs]
    table = class_table(labels, group, n_groups, len(classes))
    truth = np.eye(len(classes))[labels]
    hits, losses = ([f(p) for p in probs] for f in (_hits(labels), lambda p: ((p - truth) ** 2).sum(axis=1)))
    influences = {
        "auroc": _auroc(probs, labels, group, n_groups),
        "balanced_accuracy": _recalls(hits[0] - hits[1], labels, group, n_groups),
        "brier": _mean(losses[0] - losses[1], np.ones(len(labels), dtype=bool), group, n_groups),
        "ece": None,
    }
    pairs: dict[str, tuple[Any, Any]] = {key: (measured[0][key], measured[1][key]) for key in MEASURED}
    for rate, at_threshold in _rates(probs, labels, classes, malignant, thresholds).items():
        right, side = at_threshold
        pairs[rate] = (float(right[0][side].mean()), float(right[1][side].mean()))
        moved = right[0].astype(np.float64) - right[1]
        influences[rate] = _mean(moved, side, group, n_groups)
    return {
        key: _figure(one, other, influences[key], table)
        for key, (one, other) in pairs.items()
        if one is not None and other is not None
    }


def mean_of_sites(sites: Sequence[PairedFigure]) -> PairedFigure:
    """The mean over independent sites; without an error where one of them has none."""
    one, other = (math.fsum(values) / len(sites) for values in zip(*((s.one, s.other) for s in sites), strict=True))
    if any(site.se is None for site in sites):
        return PairedFigure(one, other)
    return PairedFigure(one, other, *mean_error([(site.se or 0.0, site.df or math.inf) for site in sites]))


def mean_of_models(pairs: Sequence[PairedFigure], table: IndexArray) -> PairedFigure:
    """The mean over pairs of models, all measured on the same patches, such as those of several seeds: a group's
    influence on a mean is the mean of its influences, so the interval is that of the patients and not of the training.

    Args:
        pairs: one figure of each pair, with influences over the same groups.
        table: patches of each group and class, [G, C].
    """
    one, other = (math.fsum(values) / len(pairs) for values in zip(*((p.one, p.other) for p in pairs), strict=True))
    influences = [pair.influence for pair in pairs if pair.influence is not None]
    return _figure(one, other, np.mean(influences, axis=0) if len(influences) == len(pairs) else None, table)


def _hits(labels: IntArray) -> Any:
    return lambda probs: (probs.argmax(axis=1) == labels).astype(np.float64)


def _rates(
    probs: tuple[FloatArray, FloatArray],
    labels: IntArray,
    classes: Sequence[str],
    malignant: Sequence[str],
    thresholds: tuple[Mapping[str, float] | None, Mapping[str, float] | None],
) -> dict[str, tuple[list[BoolArray], BoolArray]]:
    """Rate for the malignant classes -> (which patches each model calls rightly, the patches it is a share of)."""
    limits = [per_site[MALIGNANT] for per_site in thresholds if per_site and MALIGNANT in per_site]
    names = targets(classes, malignant)
    if MALIGNANT not in names or len(limits) < len(probs):
        return {}
    at = names.index(MALIGNANT)
    positive = target_truth(labels, classes, malignant)[:, at]
    scores = [target_scores(p, classes, malignant)[:, at] for p in probs]
    right = [(score >= limit) == positive for score, limit in zip(scores, limits, strict=True)]
    sides = {rate: positive == wanted for rate, wanted in RATES.items()}
    return {rate: (right, side) for rate, side in sides.items() if side.any()}


def _auroc(
    probs: tuple[FloatArray, FloatArray], labels: IntArray, group: IndexArray, n_groups: int
) -> FloatArray | None:
    one, other = (mean_influence(p, labels, group, n_groups) for p in probs)
    return None if one is None or other is None else one - other


def _recalls(moved: FloatArray, labels: IntArray, group: IndexArray, n_groups: int) -> FloatArray | None:
    """Influences on the mean over the classes of the difference in recall."""
    parts = [_mean(moved, labels == c, group, n_groups) for c in np.unique(labels)]
    supported = [part for part in parts if part is not None]
    return np.asarray(np.sum(supported, axis=0) / len(parts)) if supported else None


def _mean(moved: FloatArray, side: BoolArray, group: IndexArray, n_groups: int) -> FloatArray | None:
    """Influences f64[G] on the mean difference over some patches; None where they are of fewer than 2 groups."""
    groups = len(np.unique(group[side]))
    if groups < 2:
        return None
    away = moved[side] - moved[side].mean()
    return np.asarray(np.bincount(group[side], away, minlength=n_groups) / len(away) * math.sqrt(groups / (groups - 1)))


def _figure(one: float, other: float, influence: FloatArray | None, table: IndexArray) -> PairedFigure:
    """With the standard error and degrees of freedom of the difference."""
    variance = 0.0 if influence is None else float((influence**2).sum())
    if influence is None or variance == 0.0:  # that nothing was seen to vary does not say that nothing does
        return PairedFigure(one, other, influence=influence)
    df = float(degrees_of_freedom(influence[:, None], table)[0])
    return PairedFigure(one, other, math.sqrt(variance), df, influence)
