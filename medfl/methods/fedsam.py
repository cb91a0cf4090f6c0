"""FedSAM and FedLESAM: federated sharpness-aware minimisation.

FedSAM. Z. Qu et al., "Generalized Federated Learning via Sharpness Aware Minimization", arXiv 2206.02618 (also
D. Caldarola et al., arXiv 2203.11834). Every step takes the gradient where the loss is about the worst within rho:

    g(y + rho g(y) / ||g(y)||),                                       two backward passes a step.

FedLESAM. Z. Fan et al., "Locally Estimated Global Perturbations are Better than Local Perturbations for Federated
Sharpness-aware Minimization", arXiv 2405.18890. The direction is that in which the global model came from, which the
site knows from the models it received, w_old and w:

    g(y + rho (w_old - w) / ||w_old - w||),                           one backward pass a step.

A site that trains for the first time has no w_old and takes plain steps. rho = 0 is FedAvg. The running statistics of
BatchNorm are those of the first pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from medfl.methods.core.context import SiteContext
from medfl.methods.core.method import Method, number

RECEIVED = "fedlesam.received"


@dataclass(frozen=True)
class _SharpnessAware(Method):
    """What both share: the radius, and that one of them is enough."""

    async_safe: ClassVar[bool] = True
    neutral: ClassVar[Mapping[str, Any] | None] = {"rho": 0.0}
    rho: float = 0.05

    def __post_init__(self) -> None:
        number(self.rho, "rho", 0.0, math.inf)

    def scratch_bytes(self, steps: int, padded: int) -> int:
        """The other point, and the direction."""
        return 2 * 4 * padded


@dataclass(frozen=True)
class FedSAM(_SharpnessAware):
    """Take each step's gradient a radius `rho` uphill along the gradient."""

    name: ClassVar[str] = "fedsam"
    paper: ClassVar[str] = "arXiv:2206.02618"
    title: ClassVar[str] = "Generalized Federated Learning via Sharpness Aware Minimization"

    def ascend(self, local: SiteContext) -> None:
        """y <- y + rho g / ||g||."""
        assert local.gradient is not None
        length = torch.linalg.vector_norm(local.gradient).clamp_min(1e-12)
        local.model.vector.addcmul_(local.gradient, self.rho / length)


@dataclass(frozen=True)
class FedLESAM(_SharpnessAware):
    """Take each step's gradient a radius `rho` back along the way that the global model came."""

    name: ClassVar[str] = "fedlesam"
    paper: ClassVar[str] = "arXiv:2405.18890"
    title: ClassVar[str] = (
        "Locally Estimated Global Perturbations are Better than Local Perturbations for Federated Sharpness-aware "
        "Minimization"
    )

    def perturb(self, local: SiteContext) -> None:
        """y <- y + rho (w_old - w) / ||w_old - w||."""
        if RECEIVED not in local.state:
            return
        direction = local.vector("fedlesam_direction")
        if local.step == 0:
            local.model.layout.unpack(local.state[RECEIVED], direction).sub_(local.received)
            direction.mul_(self.rho / torch.linalg.vector_norm(direction).clamp_min(1e-12))
        local.model.vector.add_(direction)

    def make_update(self, local: SiteContext) -> None:
        """Keep w."""
        local.new_state[RECEIVED] = local.model.layout.pack(local.received)
