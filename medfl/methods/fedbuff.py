"""FedBuff, asynchronous federated learning with a buffer. J. Nguyen et al., arXiv 2106.06639.

The server waits until K updates have arrived and then takes one step (algorithm 1), each update D_i scaled by its age,
the number of merges since the site was sent its model:

    w <- w - lr / K sum_i (age_i + 1)^-exponent D_i.

Sites count equally, whatever their samples. A site that has delivered waits for the merge, so that no site is twice in
one buffer. BatchNorm statistics are the sample-weighted mean over the buffer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from medfl.messages import Reply
from medfl.methods.core.context import ServerContext
from medfl.methods.core.method import Method, number, require
from medfl.methods.staleness import staleness


@dataclass(frozen=True)
class FedBuff(Method):
    """Asynchronous: wait for `buffer` updates, then take one step along their mean, stale ones scaled down."""

    name: ClassVar[str] = "fedbuff"
    paper: ClassVar[str] = "arXiv:2106.06639"
    title: ClassVar[str] = "Federated Learning with Buffered Asynchronous Aggregation"
    merges_itself: ClassVar[str] = "late replies"
    buffer: int = 3
    lr: float = 1.0
    exponent: float = 0.5

    def __post_init__(self) -> None:
        number(self.buffer, "buffer", 1, math.inf)
        require(isinstance(self.buffer, int), f"`buffer` must be a whole number, not {self.buffer!r}")
        number(self.lr, "lr", 0.0, math.inf, open_low=True)
        number(self.exponent, "exponent", 0.0, math.inf)

    def async_schedule(self, sites: int) -> tuple[int, float]:
        """K arrivals; what arrives with the last of them is merged with it."""
        require(self.buffer <= sites, f"`buffer` is {self.buffer}, above the {sites} training sites; lower it")
        return self.buffer, 0.0

    def aggregation_weight(self, server: ServerContext, reply: Reply) -> float:
        """(age_i + 1)^-exponent, without the samples."""
        return staleness(server.ages[reply.site], self.exponent)

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """lr / K times the sum; `mean` is the sum over all samples."""
        return mean * (self.lr * sum(server.samples.values()) / len(server.samples))
