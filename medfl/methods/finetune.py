"""Local fine-tuning, the plain way to a personal model. K. Wang et al., "Federated Evaluation of On-device
Personalization", arXiv 1910.10252.

The federation is FedAvg's, untouched. Each site also keeps the model at which its own local steps last ended, with its
own buffers, and measures it beside the global one: the global model of that round after one more round of local
training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from medfl.methods.core.context import SiteContext
from medfl.methods.core.method import Method


@dataclass(frozen=True)
class FineTune(Method):
    """Each site also measures its own model: the global one after its last round of local training."""

    name: ClassVar[str] = "finetune"
    paper: ClassVar[str] = "arXiv:1910.10252"
    title: ClassVar[str] = "Federated Evaluation of On-device Personalization"
    neutral: ClassVar[Mapping[str, Any] | None] = {}

    def make_update(self, local: SiteContext) -> None:
        """Keep e and the site's buffers."""
        model = local.model
        local.new_state |= {"finetune.end": model.layout.pack(model.vector), "finetune.buffers": model.buffers()}

    def personal_models(
        self, state: Mapping[str, Tensor], received: Tensor
    ) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """`personalised`: e with the site's own buffers."""
        if "finetune.end" not in state:
            return {}
        return {"personalised": (state["finetune.end"], state["finetune.buffers"])}
