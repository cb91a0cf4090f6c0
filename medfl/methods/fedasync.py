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
from medfl.methods.core.context import ServerContext
from medfl.methods.core.method import Method, number
from medfl.methods.staleness import staleness

SHIFT = "fedasync"


@dataclass(frozen=True)
class FedAsync(Method):
    """Asynchronous: mix each arriving model into the global one, the less the staler it is."""

    name: ClassVar[str] = "fedasync"
    paper: ClassVar[str] = "arXiv:1903.03934"
    title: ClassVar[str] = "Asynchronous Federated Optimization"
    merges_itself: ClassVar[str] = "late replies"
    a0: float = 0.6
    exponent: float = 0.5
    window: float = 0.5

    def __post_init__(self) -> None:
        number(self.a0, "a0", 0.0, 1.0, open_low=True)
        number(self.exponent, "exponent", 0.0, math.inf)
        number(self.window, "window", 0.0, math.inf)

    def async_schedule(self, sites: int) -> tuple[int, float]:
        """The fastest tenth of the sites, and the window."""
        return max(1, sites // 10), self.window

    def aggregation_weight(self, server: ServerContext, reply: Reply) -> float:
        """a_i n_i."""
        return self._mixing(server, reply.site) * reply.samples

    def on_reply(self, server: ServerContext, reply: Reply) -> None:
        """An update is relative to the model the site was sent; a_i n_i (w - that) makes it relative to w."""
        received = server.received.get(reply.site)
        if received is not None and received is not server.weights:
            shift = (server.weights - received).mul_(self.aggregation_weight(server, reply))
            server.round_sums[SHIFT] = shift.add_(server.round_sums[SHIFT]) if SHIFT in server.round_sums else shift

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """sum_i p_i a_i (w - e_i)."""
        if SHIFT not in server.round_sums:
            return mean
        return mean.add(server.round_sums[SHIFT], alpha=1 / sum(server.samples.values()))

    def aggregate_buffers(self, server: ServerContext, mean: Tensor) -> Tensor:
        """b <- (1 - a) b + a mean_i b_i, with a = sum_i p_i a_i."""
        total = sum(server.samples.values())
        a = math.fsum(n * self._mixing(server, site) for site, n in server.samples.items()) / total
        mixed: Tensor = server.buffers.lerp(mean, a)
        return mixed

    def _mixing(self, server: ServerContext, site: str) -> float:
        return self.a0 * staleness(server.ages[site], self.exponent)
