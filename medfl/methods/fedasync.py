"""FedAsync, staleness-weighted asynchronous federated learning. C. Xie et al., arXiv 1903.03934.

A site's end point e enters the global model when it arrives, the less the older the model it started from
(algorithm 1, polynomial staleness):

    w <- (1 - a) w + a e,    a = a0 (age + 1)^-exponent,

age being the number of merges since the site was sent its model. Arrivals of one merge are mixed in together, each with
its a, weighted by samples: w <- w + sum_i p_i a_i (e_i - w). BatchNorm statistics are mixed in with the mean a.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from medfl.messages import Reply
from medfl.methods.core.chain import Link, number
from medfl.methods.core.context import Server
from medfl.methods.staleness import staleness, stands_asynchronously

SHIFT = "fedasync"


@dataclass(frozen=True)
class FedAsync(Link):
    """Asynchronous: mix each arriving model into the global one, the less the staler it is."""

    name: ClassVar[str] = "fedasync"
    a0: float = 0.6
    exponent: float = 0.5
    window: float = 0.5

    def __post_init__(self) -> None:
        number(self.a0, "a0", 0.0, 1.0, open_low=True)
        number(self.exponent, "exponent", 0.0, math.inf)
        number(self.window, "window", 0.0, math.inf)

    def wait(self, sites: int) -> tuple[int, float]:
        """The fastest tenth of the sites, and the window."""
        return max(1, sites // 10), self.window

    def beside(self, other: Link) -> None:
        """See `stands_asynchronously`."""
        stands_asynchronously(self, other)

    def weigh(self, server: Server, reply: Reply) -> float:
        """a_i n_i."""
        return self._mixing(server, reply.site) * reply.samples

    def accept(self, server: Server, reply: Reply) -> None:
        """An update is relative to the model the site was sent; a_i n_i (w - that) makes it relative to w."""
        received = server.received.get(reply.site)
        if received is not None and received is not server.weights:
            shift = (server.weights - received).mul_(self.weigh(server, reply))
            server.gathered[SHIFT] = shift.add_(server.gathered[SHIFT]) if SHIFT in server.gathered else shift

    def combine(self, server: Server, mean: Tensor) -> Tensor:
        """sum_i p_i a_i (w - e_i)."""
        if SHIFT not in server.gathered:
            return mean
        return mean.add(server.gathered[SHIFT], alpha=1 / sum(server.samples.values()))

    def settle(self, server: Server, mean: Tensor) -> Tensor:
        """b <- (1 - a) b + a mean_i b_i, with a = sum_i p_i a_i."""
        total = sum(server.samples.values())
        a = sum(n * self._mixing(server, site) for site, n in server.samples.items()) / total
        mixed: Tensor = server.buffers.lerp(mean, a)
        return mixed

    def _mixing(self, server: Server, site: str) -> float:
        return self.a0 * staleness(server.ages[site], self.exponent)
