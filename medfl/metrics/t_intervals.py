"""t intervals of shares, on the logit scale, and of losses, on the log scale, from a point and its standard error."""

from __future__ import annotations

import math
from statistics import NormalDist

ALPHA = 0.05

Interval = tuple[float, float]


def t_quantile(df: float) -> float:
    """97.5 % quantile of Student's t with `df` >= 1 degrees of freedom.

    Abramowitz and Stegun 1964, 26.7.5; 1 % low at df = 2, exact to 0.1 % from 3 on (and 11 % low at 1).
    """
    z = NormalDist().inv_cdf(1 - ALPHA / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / df**power for power, term in enumerate(terms, start=1))


def logit_t(point: float, se: float, df: float) -> Interval:
    """The t interval of the logit of a share inside (0, 1), mapped back."""
    return logit_around(point, t_quantile(df) * se)


def logit_around(point: float, half: float, bounds: Interval = (0.0, 1.0)) -> Interval:
    """An interval around a point of so much on either side, made on the logit scale of its bounds and mapped back.

    It lies inside the bounds, contains the point, and is the plain one where that is far from them. At a bound, where
    there is no logit, it is the plain one, cut.
    """
    low, width = bounds[0], bounds[1] - bounds[0]
    if not bounds[0] < point < bounds[1]:
        return max(point - half, bounds[0]), min(point + half, bounds[1])
    ends = _logit_around((point - low) / width, half / width)
    return min(low + width * ends[0], point), max(low + width * ends[1], point)


def _logit_around(point: float, half: float) -> Interval:
    half /= point * (1.0 - point)
    logit = math.log(point / (1.0 - point))
    low, high = (0.5 * (1.0 + math.tanh(at / 2)) for at in (logit - half, logit + half))
    return min(low, point), max(high, point)


def logit_interval(point: float, se: float, df: float, bound: float) -> Interval | None:
    """Interval of a share: the t interval of its logit, mapped back; None where the standard error is 0.

    At exactly 1 or 0 the standard error says nothing and `bound` takes over.
    """
    if point in (0.0, 1.0):
        return (bound, 1.0) if point else (0.0, 1.0 - bound)
    return None if se == 0.0 else logit_t(point, se, df)


def share_interval(point: float, se: float, df: float, bound: float) -> Interval | None:
    """`logit_interval`, and never narrower than that of a share of exactly 1 from the same groups, (`bound`, 1)."""
    interval = logit_interval(point, se, df, bound)
    return None if interval is None else not_narrower(interval, point, bound)


def not_narrower(interval: Interval, point: float, bound: float) -> Interval:
    """The interval of a share, widened to the width of (`bound`, 1) on the side of 1/2.

    A few errors that were seen cannot say more of how groups differ than none at all, and near 1 the standard error
    takes them for all there are.
    """
    low, high = interval
    if point >= 0.5:
        return max(0.0, min(low, high - (1.0 - bound))), high
    return low, min(1.0, max(high, low + (1.0 - bound)))


def log_interval(point: float, se: float, df: float, largest: float) -> Interval | None:
    """Interval of a loss of at most `largest`: the t interval of its logarithm, mapped back; None where `se` is 0."""
    if se == 0.0:
        return None
    half = t_quantile(df) * se / point
    low, high = math.exp(math.log(point) - half), math.exp(min(math.log(point) + half, math.log(largest)))
    return min(low, point), max(high, point)
