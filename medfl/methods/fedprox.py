"""FedProx. T. Li et al., "Federated Optimization in Heterogeneous Networks", arXiv 1812.06127.

Each local objective gains mu/2 ||y - w||^2 (eq. 2): the gradient at y becomes g + mu (y - w), w being the model the
site received. mu = 0 is FedAvg.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from medfl.methods.core.chain import Method, number
from medfl.methods.core.context import SiteContext


@dataclass(frozen=True)
class FedProx(Method):
    """Proximal term of strength `mu`."""

    name: ClassVar[str] = "fedprox"
    mu: float = 0.01

    def __post_init__(self) -> None:
        number(self.mu, "mu", 0.0, math.inf)

    def modify_gradient(self, local: SiteContext) -> None:
        """g <- g + mu (y - w)."""
        assert local.gradient is not None
        local.gradient.add_(local.model.vector, alpha=self.mu).sub_(local.received, alpha=self.mu)
