"""Temperature scaling from sums, so that a federation calibrates its model without seeing a score.

Guo et al. 2017, arXiv:1706.04599, section 4.2: the logits are divided by one number T > 0 that minimises the log loss
on validation data; the order of the classes, and with it every prediction, stays as it was. In b = 1/T the loss of
patches with logits z_i and true classes y_i is

    L(b)   = sum_i log sum_c exp(b z_ic) - b z_iy
    L'(b)  = sum_i E_i[z] - z_iy            moments under softmax(b z_i)
    L''(b) = sum_i Var_i[z]                 >= 0: L is convex, L' rises

All three are sums over patches, so those of two sites add up and the pooled minimum is where the pooled L' is zero.

Patches of one source group are alike, so a T fitted to few groups is mostly noise. Each group that is missing to
`ENOUGH_GROUPS` therefore speaks for T = 1, as loud as a patch: to L is added, once for each of them,

    b - 1 - log b      slope 1 - 1/b, curvature 1/b^2

the logarithm of a gamma prior whose mode is 1. The sum stays convex, needs nothing of a site but its sums and how many
groups it has, and is L alone from `ENOUGH_GROUPS` on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medfl.metrics.auroc import FloatArray, IntArray
from medfl.metrics.fit_sums import FitSums
from medfl.metrics.logit_calibration import Calibration

ENOUGH_GROUPS = 50
"""Source groups from which on a temperature is the data's alone; with fewer it is pulled towards 1."""
HOTTEST = 20.0
"""T is sought from 1 / HOTTEST to HOTTEST."""
POINTS = 33
"""Temperatures in a message."""
FLAT = 1e-12
"""A loss per patch, in nats, that no temperature lowers by more than this leaves T at 1."""


@dataclass(frozen=True)
class TemperatureSums(FitSums):
    """Sums over patches at each of k temperatures.

    Attributes:
        nll: L, in nats, without any clipping of probabilities, [k].
        slope: L' in b = 1/T, [k].
        curvature: L'' in b, [k].
        n: patches.
        groups: source groups; no group is at two sites.
    """

    nll: FloatArray
    slope: FloatArray
    curvature: FloatArray
    n: int
    groups: int


def temperature_sums(
    logits: FloatArray, labels: IntArray, temperatures: Sequence[float], groups: IntArray | None = None
) -> TemperatureSums:
    """The sums of `logits [N, C]` with true classes `labels [N]` and source groups `groups [N]` (by default a patch
    each) at each temperature.

    Raises:
        ValueError: logits that are not finite, or a temperature that is not above 0.
    """
    if not np.isfinite(logits).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(logits))} of {logits.size} logits are not finite")
    if min(temperatures, default=1.0) <= 0:
        raise ValueError(f"a temperature of {min(temperatures)} was asked for; it must be above 0")
    shifted = logits - logits.max(axis=1, keepdims=True)  # changes none of the sums, and no exponent is above 0
    true = shifted[np.arange(len(labels)), labels]
    sums = np.zeros((3, len(temperatures)))
    for k, temperature in enumerate(temperatures):
        weights = np.exp(shifted / temperature)
        total = weights.sum(axis=1)
        mean = (weights * shifted).sum(axis=1) / total
        square = (weights * (shifted - mean[:, None]) ** 2).sum(axis=1) / total
        sums[:, k] = (np.log(total) - true / temperature).sum(), (mean - true).sum(), square.sum()
    return TemperatureSums(sums[0], sums[1], sums[2], len(labels), len(labels if groups is None else np.unique(groups)))


@dataclass(frozen=True)
class TemperatureFit:
    """The temperature that minimises the pooled log loss.

    Attributes:
        temperature: T; 1 without patches, where no temperature does better than 1, and at the lower bound.
        nll_before, nll_after: mean log loss per patch at T = 1 and at T, in nats, not clipped; None without patches.
        patches, groups: how many patches, of how many source groups, decided it.
        pulled: whether it was pulled towards 1, since there are fewer groups than `ENOUGH_GROUPS`.
        bound: "lower" or "upper" where the loss still falls at that end of the range of T, else None. At the lower
            one the patches are perfectly separated (every one is classified right, and the loss falls all the way to
            T = 0): they say nothing about how sure a wrong answer would be, so T stays 1. At the upper one the model
            is no better than chance, and T is that end, or as far on the way there as few groups let it.
    """

    temperature: float
    nll_before: float | None
    nll_after: float | None
    patches: int
    groups: int
    pulled: bool = False
    bound: str | None = None

    @property
    def calibration(self) -> Calibration:
        """What logits go through."""
        return Calibration(self.temperature)


def fit_temperature(ask: Callable[[tuple[float, ...]], TemperatureSums]) -> TemperatureFit:
    """Find T in two messages: a grid over the whole range, then one between the two neighbours of the minimum.

    L' rises, so its sign tells on which side of a temperature the minimum lies, and a bracket cannot be missed. Inside
    the last one, 0.6 % wide, L' is the cubic through its values and derivatives at both ends; what is left of the
    error in T is far below 1e-6 of it.

    Args:
        ask: sends the temperatures to all sites and returns the sum of their answers. Both calls must reach the
            same sites.
    """
    b = HOTTEST ** np.linspace(-1.0, 1.0, POINTS)  # rising; 1 is in the middle
    pooled = _ask(ask, b)
    if pooled.n == 0:
        return TemperatureFit(1.0, None, None, 0, 0)
    before, weight = float(pooled.nll[POINTS // 2]), max(0, ENOUGH_GROUPS - pooled.groups)
    # That no temperature is the best of the patches shows in L alone, which still falls at its end.
    bound = "upper" if pooled.slope[0] > 0 else "lower" if pooled.slope[-1] <= 0 else None
    if bound == "lower":
        best, after = b[-1], float(pooled.nll[-1])
    elif bound == "upper" and not weight:
        best, after = b[0], float(pooled.nll[0])
    else:
        b = np.geomspace(*_bracket(b, pooled.slope + weight * (1 - 1 / b))[0], POINTS)
        pooled = _ask(ask, b)
        best, after = _minimum(b, pooled, weight)
    at_one, gained = before / pooled.n, before - after > FLAT * pooled.n
    if bound == "lower" or not gained:
        best, after, bound = 1.0, before, bound if gained else None
    return TemperatureFit(float(1 / best), at_one, after / pooled.n, pooled.n, pooled.groups, weight > 0, bound)


def _minimum(b: FloatArray, pooled: TemperatureSums, weight: int) -> tuple[float, float]:
    """(b at the minimum of L with `weight` missing groups, L there), by the cubic of the slope between two `b`."""
    slope, curvature = pooled.slope + weight * (1 - 1 / b), pooled.curvature + weight / b**2
    (low, high), k = _bracket(b, slope)
    width = high - low
    step = _zero(slope[k : k + 2], curvature[k : k + 2] * width) * width
    third = (pooled.curvature[k + 1] - pooled.curvature[k]) / width
    after = pooled.nll[k] + step * (pooled.slope[k] + step * (pooled.curvature[k] / 2 + step * third / 6))
    return low + step, float(after)


def _ask(ask: Callable[[tuple[float, ...]], TemperatureSums], b: FloatArray) -> TemperatureSums:
    return ask(tuple((1 / b).tolist()))


def _bracket(b: FloatArray, slope: FloatArray) -> tuple[tuple[float, float], int]:
    """The neighbours in rising `b` between which L' changes its sign, and the place of the lower one."""
    k = int(np.clip(np.searchsorted(slope, 0.0) - 1, 0, len(b) - 2))
    return (float(b[k]), float(b[k + 1])), k


def _zero(value: FloatArray, derivative: FloatArray) -> float:
    """Where on [0, 1] the cubic with these values and derivatives at 0 and 1 is zero; it rises from below 0."""
    low, high = 0.0, 1.0
    for _ in range(60):
        t = (low + high) / 2
        s = 1 - t
        from_low = s * s * ((1 + 2 * t) * value[0] + t * derivative[0])
        from_high = t * t * ((3 - 2 * t) * value[1] - s * derivative[1])
        low, high = (t, high) if from_low + from_high < 0 else (low, t)
    return (low + high) / 2
