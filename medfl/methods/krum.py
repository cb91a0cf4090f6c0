"""Krum and Multi-Krum. P. Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
NeurIPS 2017, arXiv 1703.02757.

Of n updates, f of which may be malicious, each is scored by how far away its neighbours are (section 4),

    s(i) = sum over the n - f - 2 updates closest to V_i, itself apart, of ||V_i - V_j||^2,

and the update of the smallest score is taken whole; Multi-Krum takes the mean of the `keep` smallest. The guarantee
needs n >= 2f + 3; a round with fewer replies does not count. Where honest sites hold different classes they are far
apart too, and Krum learns from one of them a round.

Distances are those of updates. Buffers (BatchNorm statistics), whose scale has nothing to do with that of weights, are
the mean of those of the sites taken. Of equal scores the site whose name comes first is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medfl.methods.core.context import ServerContext
from medfl.methods.core.method import number, require
from medfl.methods.core.update_matrix import UpdateMatrix
from medfl.methods.robust_aggregation import RobustRule

CHOSEN = "krum.chosen"  # i64[keep]: rows of the round that were taken


@dataclass(frozen=True)
class Krum(RobustRule):
    """The update whose neighbours are closest, or the mean of the `keep` such, against `byzantine` malicious sites."""

    name: ClassVar[str] = "krum"
    paper: ClassVar[str] = "arXiv:1703.02757"
    title: ClassVar[str] = "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent"
    byzantine: int = 1
    keep: int = 1

    def __post_init__(self) -> None:
        for key, low in (("byzantine", 0), ("keep", 1)):
            value = getattr(self, key)
            number(value, key, low, math.inf)
            require(isinstance(value, int), f"`{key}` must be a whole number, not {value!r}")

    @property
    def min_replies(self) -> int:
        """n >= 2f + 3, and as many honest sites as are to be kept."""
        return max(2 * self.byzantine + 3, self.keep + self.byzantine)

    @property
    def demand(self) -> str:
        """See `RobustRule`."""
        return (
            f"`byzantine` {self.byzantine} with `keep` {self.keep} asks for n >= 2 byzantine + 3 and "
            f"n >= keep + byzantine"
        )

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """Choose, and note who was chosen for the buffers that follow."""
        assert server.updates is not None
        server.round_sums[CHOSEN] = chosen(distances(server.updates), self.byzantine, self.keep)
        for columns, block in server.updates.blocks():
            mean[columns] = block[server.round_sums[CHOSEN]].mean(0)
        return mean

    def aggregate_buffers(self, server: ServerContext, mean: Tensor) -> Tensor:
        """Of those chosen."""
        assert server.updates is not None
        return server.updates.buffers()[server.round_sums[CHOSEN]].mean(0).to(mean)


def distances(rows: UpdateMatrix) -> Tensor:
    """f64[K, K]: squared distances between the updates of a round."""
    total = torch.zeros(len(rows.sites), len(rows.sites), dtype=torch.float64)
    for _, block in rows.blocks():
        apart = block - block[0]  # a common part would only cost digits
        gram = apart @ apart.T
        squares = gram.diagonal()
        total += squares[:, None] + squares - 2 * gram
    return total.clamp_(min=0).fill_diagonal_(0)


def chosen(squares: Tensor, byzantine: int, keep: int) -> Tensor:
    """i64[keep], ascending: the updates of the smallest scores, from squared distances f64[K, K], K > byzantine + 2."""
    neighbours = len(squares) - byzantine - 2
    scores = squares.sort(1).values[:, 1 : 1 + neighbours].sum(1)  # the first is the update itself
    return scores.argsort(stable=True)[:keep].sort().values
