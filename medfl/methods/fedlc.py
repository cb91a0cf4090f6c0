"""FedLC. J. Zhang et al., "Federated Learning with Label Distribution Skew via Logits Calibration", arXiv 2209.00189.

Under label skew a site's loss pushes down the logits of classes that it hardly has. The site's loss therefore sees
logits that are lowered by a margin, the larger the rarer the class is there (eq. 8; it has n_c training patches of it):

    f_c <- f_c - tau n_c^(-1/4).

A class that the site does not have is the limit: it leaves the site's softmax, and its logit is not trained there.
tau = 0 is FedAvg. The model that is measured and served gives plain logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from medfl.methods.core.context import SiteContext
from medfl.methods.core.method import Method, number


@dataclass(frozen=True)
class FedLC(Method):
    """Lower each logit while training, the more the rarer its class is at the site."""

    name: ClassVar[str] = "fedlc"
    paper: ClassVar[str] = "arXiv:2209.00189"
    title: ClassVar[str] = "Federated Learning with Label Distribution Skew via Logits Calibration"
    neutral: ClassVar[Mapping[str, Any] | None] = {"tau": 0.0}
    async_safe: ClassVar[bool] = True
    submodel_safe: ClassVar[bool] = True
    tau: float = 1.0

    def __post_init__(self) -> None:
        number(self.tau, "tau", 0.0, math.inf)

    def modify_logits(self, local: SiteContext, logits: Tensor, labels: Tensor) -> Tensor:
        """f - tau n^(-1/4)."""
        return logits - margins(local.class_counts, self.tau) if self.tau else logits


def margins(counts: Tensor, tau: float) -> Tensor:
    """tau n_c^(-1/4), f32[C]; infinite for absent classes."""
    return tau * torch.where(counts > 0, counts.clamp_min(1).pow(-0.25), math.inf)
