"""What the tables of a study say: means with intervals, paired differences, wins and losses, stability.

Pure functions on tables. Definitions and their reasons: docs/studies.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.metrics import mean_supported
from medfl.metrics.t_intervals import Interval, logit_around
from medfl.study.pool import ByRepeat, Pool, Repeat

TIE = 0.001
"""Two AUROCs nearer than this are a tie in the count of wins and losses."""
ENOUGH_REPEATS = 5
"""With fewer distinct federations nothing is said of which method is better: an interval over two to four numbers holds
only if they scatter normally, which they cannot show."""
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """A mean over federations and its 95 % interval (Student's t); None where there are fewer than two values."""

    n: int
    mean: float | None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"n": self.n, "mean": self.mean, "ci": None if self.low is None else [self.low, self.high]}


def mean_over(values: Iterable[float | None], bounds: Interval | None = None) -> Mean:
    """Mean and t-interval over independent repeats; those without the figure are left out.

    With `bounds`, of a figure that has a least and a largest value, the interval is made on their logit scale, so that
    no AUROC is said to be above 1; of a difference of two such figures the bounds are minus and plus their distance.
    """
    present = [value for value in values if value is not None]
    if len(present) < 2:
        return Mean(len(present), mean_supported(present))
    from scipy.special import stdtrit  # the quantile alone; scipy.stats takes a second to import

    mean = math.fsum(present) / len(present)
    error = float(np.std(present, ddof=1)) / math.sqrt(len(present))
    half = float(stdtrit(len(present) - 1, 0.975)) * error
    ends = (mean - half, mean + half) if bounds is None else logit_around(mean, half, bounds)
    return Mean(len(present), mean, *ends)


@dataclass(frozen=True)
class Paired:
    """A method against the reference on the same repeats and sites.

    Attributes:
        difference: mean over the repeats of the difference in the figure, with its t-interval.
        pairs: pairs (repeat, site) whose AUROC is known with both methods.
        effect: matched-pairs rank-biserial correlation over the pairs, -1 to 1; None where no pair differs.
        wins, ties, losses: pairs by sign; nearer than `TIE` is a tie.
        by_site: site -> the same three counts.
    """

    difference: Mean
    pairs: int
    effect: float | None
    wins: int
    ties: int
    losses: int
    by_site: Mapping[str, tuple[int, int, int]]

    def to_json(self) -> dict[str, Any]:
        counts = {"wins": self.wins, "ties": self.ties, "losses": self.losses}
        sites = {site: list(counted) for site, counted in sorted(self.by_site.items())}
        figures = {"pairs": self.pairs, "effect": self.effect}
        return {"difference": self.difference.to_json(), **figures, **counts, "by_site": sites}


ByRepeatAndSite = Mapping[tuple[Repeat, str], float]  # of each repeat at each site


def difference(method: ByRepeat, reference: ByRepeat, bounds: Interval | None = None, pool: Pool | None = None) -> Mean:
    """Mean difference over the repeats that have the figure, of these bounds, with both methods; with a `pool` over its
    federations."""
    moved = {
        repeat: value - other
        for repeat, value in sorted(method.items())
        if value is not None and (other := reference.get(repeat)) is not None
    }
    values = moved if pool is None else pool.means(moved)
    return mean_over(values.values(), bounds and (bounds[0] - bounds[1], bounds[1] - bounds[0]))


def paired(method: ByRepeatAndSite, reference: ByRepeatAndSite, differences: Mean) -> Paired:
    """Compare two methods over the (repeat, site) pairs that both have.

    The sites of one repeat share a model, so pairs are not independent: they are counted and described, and what is
    inferred, the interval of the difference, is over repeats. A signed-rank test over pairs would call a difference
    where there is none in 12 to 18 of 100 studies instead of 5.
    """
    common = sorted(set(method) & set(reference))
    moved = {pair: method[pair] - reference[pair] for pair in common}
    by_site: dict[str, list[float]] = {}
    for (_, site), value in moved.items():
        by_site.setdefault(site, []).append(value)
    values = np.array(list(moved.values()))
    counts = {site: _wins(np.array(its)) for site, its in by_site.items()}
    return Paired(differences, len(common), rank_biserial(values), *_wins(values), counts)


def rank_biserial(differences: FloatArray) -> float | None:
    """Matched-pairs rank-biserial correlation (W+ - W-) / (W+ + W-) of the ranks of |difference| (Kerby 2014,
    doi:10.2466/11.IT.3.1); zero differences are dropped, None without others."""
    from scipy.stats import rankdata

    moved = differences[differences != 0]
    if len(moved) == 0:
        return None
    ranks = rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


def _wins(differences: FloatArray) -> tuple[int, int, int]:
    wins, losses = int((differences > TIE).sum()), int((differences < -TIE).sum())
    return wins, len(differences) - wins - losses, losses
