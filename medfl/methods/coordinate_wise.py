"""Coordinate-wise median and trimmed mean. D. Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", arXiv 1803.01498, definitions 1 and 2.

Of the K values that the sites of a round report for a weight, sorted,

    median        takes the middle one, the mean of the two middle ones where K is even,
    trimmed_mean  leaves out the floor(share K) smallest and as many of the largest and takes the mean of the rest.

Every coordinate is dealt with alone, so the result need not lie near any one site's update. The median stands as long
as fewer than half of the sites are malicious, the trimmed mean as long as no more than floor(share K) are. Where the
honest sites' data differ, both favour what most of them agree on: a class that one site alone holds is learnt slowly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from medfl.methods.core.context import ServerContext
from medfl.methods.core.method import number, require
from medfl.methods.robust_aggregation import RobustRule

SLACK = 1e-9  # so that 0.29 of 100 is 29, whatever the last binary digit of a share


@dataclass(frozen=True)
class _Sorted(RobustRule):
    """A mean of the values in the middle, coordinate by coordinate."""

    def cut(self, sites: int) -> int:
        """How many values are left out at either end."""
        raise NotImplementedError

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """Block by block."""
        assert server.updates is not None
        for columns, block in server.updates.blocks():
            mean[columns] = middle_mean(block, self.cut(len(block)))
        return mean

    def aggregate_buffers(self, server: ServerContext, mean: Tensor) -> Tensor:
        """The same for buffers, in one block."""
        assert server.updates is not None
        together = server.updates.buffers()
        return middle_mean(together, self.cut(len(together))).to(mean)


@dataclass(frozen=True)
class Median(_Sorted):
    """Coordinate-wise median of the updates, unweighted; stands while most sites are honest."""

    name: ClassVar[str] = "median"
    paper: ClassVar[str] = "arXiv:1803.01498"
    title: ClassVar[str] = "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates"

    @property
    def min_replies(self) -> int:
        """Of fewer than three the median is the mean."""
        return 3

    @property
    def demand(self) -> str:
        """See `RobustRule`."""
        return "the median of fewer than three is their mean"

    def cut(self, sites: int) -> int:
        """All but the middle one or two."""
        return (sites - 1) // 2


@dataclass(frozen=True)
class TrimmedMean(_Sorted):
    """Coordinate-wise mean without the `share` largest and smallest values, unweighted."""

    name: ClassVar[str] = "trimmed_mean"
    paper: ClassVar[str] = "arXiv:1803.01498"
    title: ClassVar[str] = "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates"
    share: float = 0.2

    def __post_init__(self) -> None:
        number(self.share, "share", 0.0, 0.5)
        require(self.share < 0.5, "`share` must be below 0.5; all of it at either end is the median")

    @property
    def min_replies(self) -> int:
        """With fewer nothing would be left out."""
        return math.ceil((1 - SLACK) / self.share) if self.share else 1

    @property
    def demand(self) -> str:
        """See `RobustRule`."""
        return f"a share of {self.share:g} of fewer sites leaves none of them out"

    def cut(self, sites: int) -> int:
        """floor(share K)."""
        return math.floor(self.share * sites + SLACK)


def middle_mean(values: Tensor, cut: int) -> Tensor:
    """Mean over rows f64[n] of values f64[K, n] without the `cut` smallest and largest of every column."""
    if cut == 0:
        return values.mean(0)
    return values.sort(0).values[cut : len(values) - cut].mean(0)
