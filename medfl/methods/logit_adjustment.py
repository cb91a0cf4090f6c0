"""Logit adjustment. A. K. Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, arXiv 2007.07314; with
tau = 1 it is the balanced softmax of J. Ren et al., arXiv 2007.10740.

While a site trains, the log of its class shares is added to the logits (eq. 10), so that what is learnt is the
difference between classes and not how often each occurs at this site:

    f_c <- f_c + tau log(n_c / n).

A class that the site does not have leaves the site's softmax. tau = 0 is FedAvg. The model that is measured and
served gives plain logits: they are those of a balanced class mix, whatever mix a site has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from medfl.methods.core.context import SiteContext
from medfl.methods.core.method import Method, number


@dataclass(frozen=True)
class LogitAdjustment(Method):
    """Add the log of the site's class shares to the logits while training; tau 1 is the balanced softmax."""

    name: ClassVar[str] = "logit_adjustment"
    paper: ClassVar[str] = "arXiv:2007.07314"
    title: ClassVar[str] = "Long-tail learning via logit adjustment"
    neutral: ClassVar[Mapping[str, Any] | None] = {"tau": 0.0}
    async_safe: ClassVar[bool] = True
    submodel_safe: ClassVar[bool] = True
    tau: float = 1.0

    def __post_init__(self) -> None:
        number(self.tau, "tau", 0.0, math.inf)

    def modify_logits(self, local: SiteContext, logits: Tensor, labels: Tensor) -> Tensor:
        """f + tau log pi; log 0 is minus infinity."""
        counts = local.class_counts
        return logits + self.tau * (counts / counts.sum()).log() if self.tau else logits
