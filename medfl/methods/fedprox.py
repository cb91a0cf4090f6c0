"""FedProx. T. Li et al., "Federated Optimization in Heterogeneous Networks", arXiv 1812.06127.

Each local objective gains mu/2 ||y - w||^2 (eq. 2): the gradient at y becomes g + mu (y - w), w being the model the
site received. mu = 0 is FedAvg.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from medfl.methods.core.context import SiteContext
from medfl.methods.core.method import Method, number


@dataclass(frozen=True)
class FedProx(Method):
    """Proximal term of strength `mu`."""

    name: ClassVar[str] = "fedprox"
    paper: ClassVar[str] = "arXiv:1812.06127"
    title: ClassVar[str] = "Federated Optimization in Heterogeneous Networks"
    neutral: ClassVar[Mapping[str, Any] | None] = {"mu": 0.0}
    async_safe: ClassVar[bool] = True
    submodel_safe: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    mu: float = 0.01

    def __post_init__(self) -> None:
        number(self.mu, "mu", 0.0, math.inf)

    def modify_gradient(self, local: SiteContext) -> None:
        """g <- g + mu (y - w)."""
        assert local.gradient is not None
        weights, received = local.part(local.model.vector), local.part(local.received)
        local.gradient.add_(weights, alpha=self.mu).sub_(received, alpha=self.mu)
