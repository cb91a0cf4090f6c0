"""SCAFFOLD. S. P. Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", 1910.06378.

Algorithm 1 with N sites, S of them in a round; c is the server's control variate, c_i a site's, all zero at the start:

    site:    g <- g - c_i + c                          (every local step)
             c_i+ = mean of g, uncorrected, over the round's steps
    server:  c <- c + (1/N) sum_{i in S} (c_i+ - c_i),  so sum_i c_i = N c after every round

The paper's own c_i+ (option II), c_i - c + (w - e) / (tau lr), equals that mean under plain SGD only; under momentum
w - e is many times tau lr mean(g), and the variates diverge. The mean gradient reads no optimiser, so it holds under
momentum, weight decay, schedules and AdamW alike. "Uncorrected" is the gradient of the loss alone: a proximal term of
another link is no part of it. Variates cover the trainable parameters; they cost one more vector each way.

c is an unweighted mean over sites, as in the paper, so at convergence every site counts the same whatever its samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from medfl.messages import Reply
from medfl.methods.core.context import ServerContext, SiteContext
from medfl.methods.core.method import WEIGHTS, Method, require

GLOBAL = "scaffold.c"  # the server's variate; travels down under this name
OWN = "scaffold.own"  # a site's variate, in its state
CHANGE = "scaffold.change"  # c_i+ - c_i; travels up under this name


@dataclass(frozen=True)
class Scaffold(Method):
    """Control variates against client drift. `frozen` keeps them at zero: FedAvg's weights at SCAFFOLD's cost."""

    name: ClassVar[str] = "scaffold"
    paper: ClassVar[str] = "arXiv:1910.06378"
    title: ClassVar[str] = "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning"
    neutral: ClassVar[Mapping[str, Any] | None] = {"frozen": True}
    async_safe: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    sends: ClassVar[Mapping[str, int]] = {CHANGE: WEIGHTS}
    frozen: bool = False

    def __post_init__(self) -> None:
        require(isinstance(self.frozen, bool), f"`frozen` is true or false, not {self.frozen!r}")

    def send(self, server: ServerContext, site: str) -> dict[str, Tensor]:
        """c, zero before the first counted round."""
        if GLOBAL not in server.tensors:
            server.tensors[GLOBAL] = torch.zeros_like(server.weights)
        return {GLOBAL: server.tensors[GLOBAL]}

    def on_gradient(self, local: SiteContext) -> None:
        """Sum the uncorrected gradients."""
        assert local.gradient is not None
        total = local.part(local.vector("scaffold_sum"))
        if local.step == 0:
            total.zero_()
        total.add_(local.gradient)

    def modify_gradient(self, local: SiteContext) -> None:
        """g <- g - c_i + c."""
        assert local.gradient is not None
        correction = local.vector("scaffold_correction")
        if local.first:
            wire = local.extra[GLOBAL]
            if OWN in local.state:
                wire = torch.sub(wire, local.state[OWN], out=local.wire("scaffold_difference"))
            local.model.layout.unpack(wire, correction)
        local.gradient.add_(local.part(correction))

    def make_update(self, local: SiteContext) -> None:
        """Keep c_i+, send c_i+ - c_i."""
        own = local.model.layout.pack(local.vector("scaffold_sum").div_(local.steps))
        if self.frozen:
            own.zero_()
        local.new_state[OWN] = own
        local.extra_up[CHANGE] = own - local.state[OWN] if OWN in local.state else own

    def on_reply(self, server: ServerContext, reply: Reply) -> None:
        """Sum the changes; they count only if the round does."""
        if CHANGE not in server.round_sums:
            server.round_sums[CHANGE] = torch.zeros_like(server.weights)
        server.round_sums[CHANGE].add_(reply.extra[CHANGE])

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """c <- c + (1/N) sum (c_i+ - c_i)."""
        server.tensors[GLOBAL] = server.tensors[GLOBAL].add(server.round_sums[CHANGE], alpha=1 / len(server.sites))
        return mean

    def scratch_bytes(self, steps: int, padded: int) -> int:
        """Gradient, sum and correction, and the correction as it travels."""
        return 4 * 4 * padded
