"""Whether new patches differ from those a model was measured on, from sums over source groups that merge exactly.

A figure of a source group is the mean over its patches, and every source group counts the same. A place tells of a
figure how many groups it has and the sums of their values, squares and cubes (`Moments`), in whole millionths, so that
two places' sums add up to those of their groups together to the last digit, in any order. docs/monitoring.md gives the
rule for an alarm and how often it is raised where nothing has changed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from statistics import NormalDist

import numpy as np

from medfl.metrics.auroc import FloatArray

UNIT = 10**6
LEAST_GROUPS = 5
"""Source groups behind any sums: fewer could be told from them, and say nothing of how groups differ."""
LEVEL = 0.01
"""Of an alarm where nothing has changed, over all figures looked at together."""
LARGEST_DF = 400
LEAST_ERROR = 1e-4
"""Of a difference: figures of groups that are all alike still have it."""


@dataclass(frozen=True)
class Moments:
    """Sums over source groups of one figure, in millionths: how many, of values, of squares, of cubes."""

    groups: int
    total: int
    square: int
    cube: int

    @classmethod
    def of(cls, values: FloatArray) -> Moments:
        """Those of a figure's values f64[G], one a source group."""
        whole = np.rint(np.asarray(values, dtype=np.float64) * UNIT).astype(np.int64).astype(object)
        return cls(len(whole), *(int((whole**power).sum()) for power in (1, 2, 3)))

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(mine + more for mine, more in zip(self.to_list(), other.to_list(), strict=True)))

    def to_list(self) -> list[int]:
        """The four numbers, ready for JSON."""
        return [self.groups, self.total, self.square, self.cube]

    @property
    def mean(self) -> float:
        """Over groups."""
        return self.total / self.groups / UNIT

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean: Student's t over at least two groups."""
        error = math.sqrt(max(self.squares, 0.0) / (self.groups - 1) / self.groups)
        reach = _t_quantile(0.05, self.groups - 1) * error
        return self.mean - reach, self.mean + reach

    @property
    def squares(self) -> float:
        """Sum over groups of the squared distance to the mean."""
        return (self.groups * self.square - self.total**2) / self.groups / UNIT**2

    @property
    def cubes(self) -> float:
        """Sum over groups of the cubed distance to the mean."""
        n, s = self.groups, self.total
        return (n**2 * self.cube - 3 * n * s * self.square + 2 * s**3) / n**2 / UNIT**3


@dataclass(frozen=True)
class Shift:
    """By how much a figure of new source groups lies above that of the reference.

    Attributes:
        groups: new source groups.
        value, reference: means over groups; of several sites that are one another's kind, the mean over sites.
        low, high: 95 % interval of value - reference.
        ratio: |value - reference| over the least at which an alarm is raised; above 1 it is.
    """

    groups: int
    value: float
    reference: float
    low: float
    high: float
    ratio: float

    @property
    def alarm(self) -> bool:
        """Whether it is more than chance explains."""
        return self.ratio > 1.0


def shift(new: Moments, reference: Sequence[Moments], level: float, between: bool = False) -> Shift:
    """Compare new source groups with those of a reference, or, `between`, a new site with several others.

    Args:
        new: at least one source group.
        reference: at least one place, and two where `between`; together at least two groups.
        level: of a false alarm of this one figure.
        between: whether the new groups are of a site that the reference does not hold.
    """
    return (
        between_shift([new], reference, level) if between else stratified_shift([(new, reduce(add, reference))], level)
    )


def stratified_shift(places: Sequence[tuple[Moments, Moments]], level: float) -> Shift:
    """Compare new source groups with those of a reference, place by place, so that a place that sends more than it did
    is no drift.

    Where nothing has changed a place's new groups are draws from where its reference's are: the difference of means
    over s sqrt(1/n + 1/m), s pooled, is about Student's t with n + m - 2 degrees of freedom. A rare class makes it
    skew, so its quantile is moved outwards by the first term of Cornish and Fisher's, skewness (z^2 - 1) / 6, on the
    side of the long tail. Of several places the differences are summed by the places' shares of the new groups (direct
    standardisation), with Satterthwaite's degrees of freedom.

    Args:
        places: new and reference of each, together at least two groups.
        level: of a false alarm of this one figure.
    """
    total = reduce(add, (new for new, _ in places)).groups
    variances, degrees, third = [], [], 0.0
    for new, old in places:
        n, m, weight = new.groups, old.groups, new.groups / total
        pooled = (new.squares + old.squares) / (n + m - 2)
        variances.append(weight**2 * pooled * (1 / n + 1 / m))
        degrees.append(n + m - 2)
        third += weight**3 * (new.cubes + old.cubes) / (n + m) * (1 / n**2 - 1 / m**2)
    square = math.fsum(variances)
    parts = [
        own / square if square > 0 else new.groups / total for own, (new, _) in zip(variances, places, strict=True)
    ]
    df = 1 / math.fsum(part**2 / own for part, own in zip(parts, degrees, strict=True))
    value, centre = (math.fsum(place[0].groups / total * place[k].mean for place in places) for k in (0, 1))
    skewness = third / square**1.5 if square > 0 else 0.0
    return _shift(total, value, centre, square, df, skewness, level)


def between_shift(new: Sequence[Moments], reference: Sequence[Moments], level: float) -> Shift:
    """Compare new sites with several others that are of their kind: a site's mean is one draw.

    The variance is s_B^2 (1/S' + 1/S), s_B over the S sites of the reference, and the mean of s^2/n over the S' new
    sites once more by S', with Satterthwaite's degrees of freedom, rounded down.

    Args:
        new: at least one site that the reference does not hold.
        reference: at least two sites.
        level: of a false alarm of this one figure.
    """
    groups, count = reduce(add, new).groups, len(new)
    everything = [*new, *reference]
    whole = reduce(add, everything).groups
    within = math.fsum(part.squares for part in everything) / max(whole - len(everything), 1)
    own = within * math.fsum(1 / part.groups for part in new) / count**2
    value, centre = (math.fsum(part.mean for part in side) / len(side) for side in (new, reference))
    spread = math.fsum((part.mean - centre) ** 2 for part in reference) / (len(reference) - 1)
    others = spread * (1 / count + 1 / len(reference))
    parts = own**2 / whole + others**2 / (len(reference) - 1)
    df = (own + others) ** 2 / parts if parts > 0 else LARGEST_DF
    return _shift(groups, value, centre, own + others, df, 0.0, level)


def _shift(groups: int, value: float, centre: float, square: float, df: float, skewness: float, level: float) -> Shift:
    """The comparison of two means whose difference has this variance and skewness."""
    whole_df = int(min(df + 1e-9, LARGEST_DF))
    error, difference = max(math.sqrt(max(square, 0.0)), LEAST_ERROR), value - centre
    limit = error * _quantile(level, whole_df, skewness if difference > 0 else -skewness)
    low = difference - error * _quantile(0.05, whole_df, skewness)
    high = difference + error * _quantile(0.05, whole_df, -skewness)
    return Shift(groups, value, centre, low, high, abs(difference) / limit)


def _quantile(level: float, df: int, skewness: float) -> float:
    """What |t| passes with probability `level`, further out where the tail of that side is the long one."""
    z = NormalDist().inv_cdf(1 - level / 2)
    return _t_quantile(level, max(df, 1)) + max(skewness, 0.0) * (z**2 - 1) / 6


def _t_quantile(level: float, df: int) -> float:
    """What |T| of Student's t passes with probability `level`."""
    from scipy.special import stdtrit  # the quantile alone; scipy.stats takes a second to import

    return -float(stdtrit(df, level / 2))
