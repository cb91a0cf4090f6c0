"""FedBN. X. Li et al., "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", arXiv 2102.07623.

Normalisation layers (affine parameters and statistics) are never replaced by the server's: each site trains on with
its own, and is measured with its own. They are still uploaded, and their sample-weighted mean is what held-out sites
and the registry receive, since an institution that never trained has none of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from medfl.methods.core.method import Method, require
from medfl.model.flat_model import FlatModel


@dataclass(frozen=True)
class FedBN(Method):
    """Normalisation layers stay at each site."""

    name: ClassVar[str] = "fedbn"
    paper: ClassVar[str] = "arXiv:2102.07623"
    title: ClassVar[str] = "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization"
    async_safe: ClassVar[bool] = True
    submodel_safe: ClassVar[bool] = True

    @property
    def local_norms(self) -> bool:
        """They do."""
        return True

    def check(self, model: FlatModel, optimizer: str, momentum: float, weight_decay: float) -> None:
        """Refuse a backbone in which nothing would stay local."""
        require(
            bool(model.norm_slots()),
            f"{model.spec.backbone} has no trainable normalisation layer to keep at a site; take another backbone or "
            f"leave fedbn out",
        )
