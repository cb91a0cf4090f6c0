"""FedDyn. D. A. E. Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021, arXiv 2111.04263.

Every site's objective is regularised anew each round, so that its own minimum moves to the federation's (algorithm 1;
h_i is the site's vector, h the server's, both zero at the start, e_i where the site ends):

    site:    g <- g - h_i + alpha (y - w)             (every local step)
             h_i <- h_i - alpha (e_i - w)
    server:  h <- h - alpha sum_i q_i (e_i - w)
             w <- sum_i p_i e_i - h / alpha

The paper counts sites alike. Here p_i is the share of samples among the round's replies and q_i that among all sites
known so far, so that with every site in every round the fixed point is that of the sample-weighted objective, as
FedAvg's. alpha = 0 is FedAvg. h_i comes from the raw end e_i; what the server sums are the updates as they are sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from medfl.methods.core.context import ServerContext, SiteContext
from medfl.methods.core.method import Method, number, require

OWN = "feddyn.h"  # in a site's state, and the server's under the same name


@dataclass(frozen=True)
class FedDyn(Method):
    """Dynamic regularisation of strength `alpha`: site minima are drawn to the federation's."""

    name: ClassVar[str] = "feddyn"
    paper: ClassVar[str] = "arXiv:2111.04263"
    title: ClassVar[str] = "Federated Learning Based on Dynamic Regularization"
    neutral: ClassVar[Mapping[str, Any] | None] = {"alpha": 0.0}
    elementwise: ClassVar[bool] = True
    alpha: float = 0.01

    def __post_init__(self) -> None:
        number(self.alpha, "alpha", 0.0, math.inf)

    def check_compatible(self, other: Method) -> None:
        """The server's step is its own, over plain weighted means of displacements from w."""
        weighs = other.acts_in("aggregation_weight") or other.keeps_updates or other.replaces_mean
        require(
            not weighs and not other.starts_elsewhere,
            f"feddyn corrects the sample-weighted mean of what sites make of the model they received, which "
            f"{other.name} changes; leave one of them out",
        )
        require(
            not other.sends, f"feddyn and {other.name} both correct the drift of sites with vectors; keep one of them"
        )

    def modify_gradient(self, local: SiteContext) -> None:
        """g <- g - h_i + alpha (y - w)."""
        assert local.gradient is not None
        if not self.alpha:
            return
        pull = local.vector("feddyn_pull")  # h_i + alpha w, the same in all steps of a round
        if local.first:
            if OWN in local.state:
                local.model.layout.unpack(local.state[OWN], pull).add_(local.received, alpha=self.alpha)
            else:
                torch.mul(local.received, self.alpha, out=pull)
        weights = local.part(local.model.vector)
        local.gradient.add_(weights, alpha=self.alpha).sub_(local.part(pull))

    def make_update(self, local: SiteContext) -> None:
        """h_i <- h_i - alpha (e_i - w)."""
        if self.alpha:
            change = torch.sub(local.received, local.model.vector, out=local.vector("feddyn_pull"))
            kept = local.model.layout.pack(change.mul_(self.alpha))
            local.new_state[OWN] = kept.add_(local.state[OWN]) if OWN in local.state else kept

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """h <- h + alpha sum_i q_i (w - e_i); the mean update grows by h / alpha."""
        if not self.alpha:
            return mean
        samples = {**server.json_state.get(self.name, {}), **server.samples}
        server.json_state[self.name] = samples
        share = sum(server.samples.values()) / sum(samples.values())
        own = server.tensors.get(OWN)
        h = mean * (self.alpha * share) if own is None else own.add(mean, alpha=self.alpha * share)
        server.tensors[OWN] = h
        return mean.add_(h, alpha=1 / self.alpha)

    def scratch_bytes(self, steps: int, padded: int) -> int:
        """Gradient, and what is subtracted from it."""
        return 2 * 4 * padded
