"""FedNova. J. Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
arXiv 2007.07481.

Sites that take more local steps pull the average towards their own optimum. FedNova averages what one step did
(eq. 8, 9), p_i = n_i / n over the round's participants:

    d_i = (w - e_i) / a_i,    w <- w - (sum_i p_i a_i) sum_i p_i d_i

a_i is the length of what one unit gradient a step drives through the local optimiser: tau_i under plain SGD,
[tau - rho (1 - rho^tau) / (1 - rho)] / (1 - rho) under momentum rho, [1 - (1 - lr mu)^tau] / (lr mu) under a proximal
term. `normaliser` runs that recursion itself, so momentum and the proximal term also go together. The server knows
every site's steps: nothing more is sent. Equal steps give FedAvg.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from medfl.errors import MedflError
from medfl.messages import Reply
from medfl.methods.core.context import ServerContext
from medfl.methods.core.method import Method, require
from medfl.methods.fedprox import FedProx
from medfl.model.flat_model import FlatModel

SUMS = "fednova.sums"  # f64[2]: sum of n_i a_i, sum of n_i


def normaliser(steps: int, momentum: float = 0.0, mu: float = 0.0, lr: float = 0.0) -> float:
    """a_i: (w - e) / (lr g) after `steps` steps whose loss has the constant gradient g.

    The proximal term sees y - w = -lr a g, so each step's gradient is (1 - mu lr a) g.
    """
    moved = buffer = 0.0
    for _ in range(steps):
        buffer = momentum * buffer + 1.0 - mu * lr * moved
        moved += buffer
    return moved


@dataclass(frozen=True)
class FedNova(Method):
    """Normalised averaging for sites with unequal local steps."""

    name: ClassVar[str] = "fednova"
    paper: ClassVar[str] = "arXiv:2007.07481"
    title: ClassVar[str] = "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization"
    rescales_updates: ClassVar[bool] = True

    def check(self, model: FlatModel, optimizer: str, momentum: float, weight_decay: float) -> None:
        """Only SGD's steps can be counted."""
        require(
            optimizer == "sgd",
            f"its normaliser counts steps of SGD, with or without momentum; set `training.optimizer.name` to sgd, "
            f"not {optimizer}",
        )

    def aggregation_weight(self, server: ServerContext, reply: Reply) -> float:
        """n_i / a_i."""
        return reply.samples / self._normaliser(server, reply.steps)

    def on_reply(self, server: ServerContext, reply: Reply) -> None:
        """Sum n_i a_i and n_i."""
        sums = server.round_sums.setdefault(SUMS, torch.zeros(2, dtype=torch.float64))
        sums += reply.samples * torch.tensor([self._normaliser(server, reply.steps), 1.0], dtype=torch.float64)

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """(sum_i p_i a_i) sum_i p_i d_i."""
        weighted, samples = server.round_sums[SUMS].tolist()
        return mean.mul(weighted / samples)

    @staticmethod
    def _normaliser(server: ServerContext, steps: int) -> float:
        mu = next((method.mu for method in server.methods if isinstance(method, FedProx)), 0.0)
        length = normaliser(steps, server.momentum, mu, server.lr)
        if not (math.isfinite(length) and length > 0):
            raise MedflError(
                f"`method.fedprox.mu`: with a learning rate of {server.lr:g} a proximal term of {mu:g} overshoots, and "
                f"fednova cannot normalise {steps} such steps; lower mu below {1 / server.lr:g}"
            )
        return length
