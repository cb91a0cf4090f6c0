"""The tests of a study's endpoints: pure functions on numbers of independent federations.

A federation counts once. Its number is the mean over the strata, with equal weights, of what a method gained there over
another, so whatever the strata of one federation have in common (its groups, its stain, its initial weights) is inside
that number, and the numbers of different federations are independent: Student's t holds, whatever the correlation and
the variances of the strata. `benchmarks/type_one_error.py` simulates that; definitions: docs/studies.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medfl.metrics.t_intervals import Interval

LEVEL = 0.05
"""Of every test, and of what an interval leaves out."""
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over independent federations, and what Student's t says of it.

    Attributes:
        n: federations, at least 2.
        mean: on the scale of the test.
        error: its standard error; 0 where all federations say the same, and then every test is certain.
    """

    n: int
    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate | None:
        """From a number a federation; None below two, which say nothing of how they vary."""
        if len(values) < 2:
            return None
        return cls(len(values), math.fsum(values) / len(values), float(np.std(values, ddof=1)) / math.sqrt(len(values)))

    def interval(self, level: float = 1 - LEVEL) -> Interval:
        """The two-sided t interval; that of 90 % lies inside the margins where two one-sided tests at 5 % both
        reject."""
        from scipy.special import stdtrit  # the quantile alone; scipy.stats takes a second to import

        half = float(stdtrit(self.n - 1, (1 + level) / 2)) * self.error
        return self.mean - half, self.mean + half

    def p_difference(self) -> float:
        """Two-sided, of a mean of 0."""
        return min(1.0, 2 * min(self._p_above(0.0), self._p_below(0.0)))

    def p_no_worse(self, margin: float) -> float:
        """One-sided, of a mean of -`margin` or less."""
        return self._p_above(-margin)

    def p_equivalence(self, margin: float) -> float:
        """Two one-sided tests (Schuirmann 1987, doi:10.1007/BF01068419): the larger p of a mean of -`margin` or less
        and one of `margin` or more."""
        return max(self._p_above(-margin), self._p_below(margin))

    def _p_above(self, bound: float) -> float:
        """One-sided p of a mean of `bound` or less."""
        from scipy.special import stdtr

        if self.error == 0:
            return 0.0 if self.mean > bound else 1.0
        return float(stdtr(self.n - 1, (bound - self.mean) / self.error))

    def _p_below(self, bound: float) -> float:
        return Estimate(self.n, -self.mean, self.error)._p_above(-bound)


@dataclass(frozen=True)
class Interaction:
    """Whether what a method gains differs between strata: Hotelling's T^2 of the strata's differences, as an F."""

    f: float
    df: tuple[int, int]
    p: float


def interaction(rows: FloatArray) -> Interaction | None:
    """Test that a gain is the same in all strata.

    The strata of one federation may be correlated and of any variance, so the K - 1 differences between its strata are
    tested together by T^2 (Hotelling 1931, doi:10.1214/aoms/1177732979).

    Args:
        rows: the gain of every federation in every stratum, [n, K].

    Returns:
        None with fewer than two strata, fewer than K + 1 federations, or federations that do not vary.
    """
    n, strata = rows.shape
    if strata < 2 or n <= strata:
        return None
    from scipy.special import fdtrc

    moved = rows[:, 1:] - rows[:, :1]
    mean, spread = moved.mean(axis=0), np.atleast_2d(np.cov(moved, rowvar=False))
    if np.linalg.matrix_rank(spread) < strata - 1:
        return None
    t_squared = float(n * mean @ np.linalg.solve(spread, mean))
    df = (strata - 1, n - strata + 1)
    f = t_squared * df[1] / (df[0] * (n - 1))
    return Interaction(f, df, float(fdtrc(*df, f)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of a family of tests, in their order (Holm 1979, Scand J Stat 6:65-70)."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
