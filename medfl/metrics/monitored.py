"""The figures of source groups that monitoring compares: of scores, of labels where there are any, of stain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medfl.metrics.auroc import FloatArray, IntArray
from medfl.metrics.drift import LEAST_GROUPS, Moments
from medfl.metrics.figure_checks import Check, brief, listed, record

STAIN = tuple(f"{what}_{channel}" for what in ("density", "contrast") for channel in ("red", "green", "blue"))
"""Mean and deviation of the optical density of a source group's tissue (`medfl.data.group_stain`)."""
CONFIDENCE, GAP, SHARE = "confidence", "calibration_gap", "probability of "
TOGETHER = "all together"
"""What stands in the place of a site's name where all of them are looked at as one."""
LARGEST = 10**40


def figure_names(classes: Sequence[str]) -> list[str]:
    """Every figure that may be looked at: the largest probability, that of each class, accuracy less confidence where
    there are labels, and six of the stain."""
    return [CONFIDENCE, *(f"{SHARE}{name}" for name in classes), GAP, *STAIN]


def group_moments(
    probs: FloatArray, labels: IntArray, group: IntArray, classes: Sequence[str], stain: FloatArray, min_count: int
) -> dict[str, Moments]:
    """What may be told of each figure: nothing of one that stands on fewer source groups than the floor, or than 5.

    Args:
        probs: calibrated probabilities [N, C].
        labels: true class [N]; -1 where nobody knows.
        group: source group [N], any integers.
        classes: names of the C classes.
        stain: [S, 6], of the source groups whose stain can be measured; [0, 6] for none.
        min_count: the disclosure floor.
    """
    scores = np.column_stack([probs.max(axis=1), probs])
    rows = labels >= 0
    gap = (probs.argmax(axis=1) == labels).astype(np.float64) - probs.max(axis=1)
    names = figure_names(classes)
    values = [*group_means(scores, group).T, *group_means(gap[rows, None], group[rows]).T, *stain.T]
    made = {name: Moments.of(column) for name, column in zip(names, values, strict=True)}
    least = max(min_count, LEAST_GROUPS)
    return {name: moments for name, moments in made.items() if moments.groups >= least}


def group_means(values: FloatArray, group: IntArray) -> FloatArray:
    """Mean [G, K] over the patches of each source group of values [N, K]."""
    names, index = np.unique(group, return_inverse=True)
    sizes = np.bincount(index, minlength=len(names))
    totals = [np.bincount(index, column, minlength=len(names)) / np.maximum(sizes, 1) for column in values.T]
    return np.column_stack(totals) if totals else np.empty((len(names), 0))


def to_lists(moments: Mapping[str, Moments]) -> dict[str, list[int]]:
    """Ready for JSON."""
    return {name: own.to_list() for name, own in moments.items()}


def from_lists(lists: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Moments]:
    """The inverse of `to_lists`. Raises ValueError for what is none."""
    moments_check(classes)(lists, "moments")
    return {name: Moments(*own) for name, own in lists.items()}


def moments_check(classes: Sequence[str]) -> Check:
    """Sums of figures that a model of these classes has."""
    return record({}, dict.fromkeys(figure_names(classes), _moments))


def _moments(value: Any, where: str) -> None:
    listed(_whole, 4)(value, where)
    groups, total, square, _ = value
    if groups < LEAST_GROUPS or square < 0 or groups * square < total**2:
        raise ValueError(f"`{where}` is {brief(value)}, which no {LEAST_GROUPS} source groups have")


def _whole(value: Any, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > LARGEST:
        raise ValueError(f"`{where}` is {brief(value)} and must be a whole number")


def merged(parts: Sequence[Mapping[str, Moments]]) -> dict[str, Moments]:
    """The sums of several places together, of the figures that all of them tell."""
    first, *others = parts
    together = dict(first)
    for part in others:
        together = {name: own + part[name] for name, own in together.items() if name in part}
    return together
