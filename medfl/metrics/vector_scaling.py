"""Vector scaling from sums: a factor and a constant for every class, fitted without a score leaving a site.

Guo et al. 2017, arXiv:1706.04599, section 4.2. With logits z_i [C], true classes y_i and u_i = s * z_i + b, the loss

    L(s, b) = sum_i log sum_c exp(u_ic) - u_iy

is convex, since u is linear in (s, b). Loss, gradient and Hessian are sums over patches, so those of sites add up, and
Newton's method on the sums is Newton's method on all patches. Each message asks for a few points along the step, so
that the step's length is chosen without a further message.

As for a temperature (`medfl.metrics.temperature`), few source groups speak for less: for one temperature T for all
classes, itself fitted and pulled to 1. To L is added w times, as loud as a patch each,

    sum_c (T s_c - 1 - log T s_c) + b_c^2 / 2

with w the groups that are missing to `ENOUGH_GROUPS` for every class, and at least `LEAST`: a class that no patch has,
or that all patches show perfectly, has no best bias or factor of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medfl.metrics.auroc import FloatArray, IntArray
from medfl.metrics.fit_sums import FitSums
from medfl.metrics.logit_calibration import Calibration
from medfl.metrics.temperature import ENOUGH_GROUPS, FLAT, HOTTEST

LEAST = 1.0
"""Times that the pull counts at least."""
MESSAGES = 12
"""Messages to a site at most; seven are usual."""
LENGTHS = (1.0, 0.5, 0.2, 0.04)
"""Parts of a Newton step in a message."""
CLOSE = 1e-15
"""A Newton step that promises less than this of loss a patch, in nats, is the last."""

Ask = Callable[[tuple[tuple[float, ...], ...]], "ScalingSums"]


@dataclass(frozen=True)
class ScalingSums(FitSums):
    """Sums over patches at each of k points (s, b) [2 C].

    Attributes:
        nll: L, in nats, not clipped, [k].
        gradient: of L in (s, b), [k, 2 C].
        hessian: of L in (s, b), [k, 2 C, 2 C].
        n: patches.
        groups: source groups; no group is at two sites.
    """

    nll: FloatArray
    gradient: FloatArray
    hessian: FloatArray
    n: int
    groups: int


def scaling_sums(
    logits: FloatArray, labels: IntArray, points: Sequence[Sequence[float]] | FloatArray, groups: IntArray | None = None
) -> ScalingSums:
    """The sums of `logits [N, C]` with true classes `labels [N]` and source groups `groups [N]` (by default a patch
    each) at each point, C scales and then C biases.

    Raises:
        ValueError: logits or points that are not finite, or a point that is not of 2 C numbers.
    """
    n, classes = logits.shape
    at = np.array(points, dtype=np.float64)
    if at.shape != (len(points), 2 * classes) or not np.isfinite(at).all():
        raise ValueError(f"a point of vector scaling is {2 * classes} finite numbers for {classes} classes")
    if not np.isfinite(logits).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(logits))} of {logits.size} logits are not finite")
    onehot = (labels[:, None] == np.arange(classes)).astype(np.float64)
    nll, gradient = np.zeros(len(at)), np.zeros(at.shape)
    hessian = np.zeros((len(at), 2 * classes, 2 * classes))
    for k, point in enumerate(at):
        scaled = logits * point[:classes] + point[classes:]
        scaled -= scaled.max(axis=1, keepdims=True, initial=-np.inf)
        total = np.exp(scaled).sum(axis=1, keepdims=True)
        probs = np.exp(scaled) / total
        nll[k] = np.log(total).sum() - (scaled * onehot).sum()
        gradient[k] = np.concatenate([((probs - onehot) * logits).sum(axis=0), (probs - onehot).sum(axis=0)])
        features = np.concatenate([probs * logits, probs], axis=1)
        own, crossed = (probs * logits**2).sum(axis=0), (probs * logits).sum(axis=0)
        hessian[k] = np.block([[np.diag(own), np.diag(crossed)], [np.diag(crossed), np.diag(probs.sum(axis=0))]])
        hessian[k] -= features.T @ features
    return ScalingSums(nll, gradient, hessian, n, n if groups is None else len(np.unique(groups)))


@dataclass(frozen=True)
class ScalingFit:
    """Scales and biases that minimise the pooled log loss.

    Attributes:
        calibration: them; nothing is changed without patches, where no other does better, and at `bound`.
        nll_before, nll_after: mean log loss per patch without and with them, in nats; None without patches.
        patches, groups: how many patches, of how many source groups, decided it.
        pulled: whether few groups pulled it towards one temperature for all classes.
        bound: "lower" where it separates the patches perfectly, which then say nothing about how sure a wrong answer
            would be; logits stay as they are.
        messages: how many it took.
    """

    calibration: Calibration
    nll_before: float | None
    nll_after: float | None
    patches: int
    groups: int
    pulled: bool = False
    bound: str | None = None
    messages: int = 1


def fit_scaling(ask: Ask, classes: int, temperature: float = 1.0) -> ScalingFit:
    """Find scales and biases of C classes in at most `MESSAGES` messages.

    Args:
        ask: sends points to all sites and returns the sum of their answers. All calls must reach the same sites.
        temperature: T, towards which few groups pull.
    """
    unchanged = np.concatenate([np.ones(classes), np.zeros(classes)])
    point = np.concatenate([np.full(classes, 1 / temperature), np.zeros(classes)])
    sums, sent = _ask(ask, [unchanged, point]), 1
    if not sums.n:
        return ScalingFit(Calibration(), None, None, 0, 0)
    missing = ENOUGH_GROUPS - sums.groups / classes
    before, after = sums.nll.tolist()
    pull = _Pull(max(LEAST, missing), temperature)
    here = pull.added(point, sums, 1)
    while sent < MESSAGES - 1:
        value, gradient, hessian = here
        step = np.asarray(-np.linalg.solve(hessian, gradient), dtype=np.float64)
        if -gradient @ step < CLOSE * sums.n:
            break
        points = [point + length * step for length in _allowed(point[:classes], step[:classes])]
        sums, sent = _ask(ask, points), sent + 1
        ends = [pull.added(end, sums, k) for k, end in enumerate(points)]
        k = min(range(len(points)), key=lambda k: ends[k][0])
        if not ends[k][0] < value:
            break
        point, here, after = points[k], ends[k], float(sums.nll[k])
    # Times HOTTEST the loss falls still along the way there only if every patch is on the right side.
    far, sent = _ask(ask, [HOTTEST * point]), sent + 1
    bound = "lower" if point @ far.gradient[0] <= 0 and before > FLAT * sums.n else None
    scale, bias = (tuple(part.tolist()) for part in np.split(point, 2))
    calibration = Calibration(scale=scale, bias=bias)
    if bound or not before - after > FLAT * sums.n:
        calibration, after = Calibration(), before
    at_one, at_best = before / sums.n, after / sums.n
    return ScalingFit(calibration, at_one, at_best, sums.n, sums.groups, missing > LEAST, bound, sent)


def _ask(ask: Ask, points: Sequence[FloatArray]) -> ScalingSums:
    return ask(tuple(tuple(point.tolist()) for point in points))


@dataclass(frozen=True)
class _Pull:
    """The pull towards a temperature, so many times."""

    weight: float
    temperature: float

    def added(self, point: FloatArray, sums: ScalingSums, k: int) -> tuple[float, FloatArray, FloatArray]:
        """Loss, gradient and Hessian at the k-th point with the pull."""
        scale, bias = np.split(point, 2)
        times = self.temperature * scale
        value = float(sums.nll[k]) + self.weight * float((times - 1 - np.log(times)).sum() + (bias**2).sum() / 2)
        gradient = sums.gradient[k] + self.weight * np.concatenate([self.temperature - 1 / scale, bias])
        curvature = np.concatenate([1 / scale**2, np.ones_like(bias)])
        return value, gradient, sums.hessian[k] + self.weight * np.diag(curvature)


def _allowed(scale: FloatArray, step: FloatArray) -> list[float]:
    """The parts of a step to try: no scale falls to a tenth of itself or below."""
    falling = step < 0
    longest = min(1.0, float((-0.9 * scale[falling] / step[falling]).min(initial=1.0)))
    return [longest * length for length in LENGTHS]
