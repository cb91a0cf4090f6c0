"""MOON. Q. Li et al., "Model-Contrastive Federated Learning", CVPR 2021, arXiv 2103.16257.

A site's features are drawn to those of the global model and away from those of its own model of the round before
(eq. 3; z, z_w, z_old: features of one image under the model in training, the received one, and the site's last one):

    loss + mu * -log( e^{cos(z, z_w)/t} / (e^{cos(z, z_w)/t} + e^{cos(z, z_old)/t}) ).

A site that trains for the first time has no last model, and takes the plain loss. mu = 0 is FedAvg. The paper puts a
projection head of two layers before the features that are compared; here they are what the classifier receives, so
that the architecture stays the one that is served. The two other models are in evaluation mode.
Under FedBN all three have the site's own normalisation layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

from medfl.methods.core.context import SiteContext, TrainingBatch
from medfl.methods.core.method import Method, number, require
from medfl.model.flat_model import FlatModel

END, BUFFERS = "moon.end", "moon.buffers"


@dataclass(frozen=True)
class Moon(Method):
    """Model-contrastive loss of weight `mu` and temperature `temperature` on the features."""

    name: ClassVar[str] = "moon"
    paper: ClassVar[str] = "arXiv:2103.16257"
    title: ClassVar[str] = "Model-Contrastive Federated Learning"
    neutral: ClassVar[Mapping[str, Any] | None] = {"mu": 0.0}
    needs_features: ClassVar[bool] = True
    async_safe: ClassVar[bool] = True
    mu: float = 1.0
    temperature: float = 0.5

    def __post_init__(self) -> None:
        number(self.mu, "mu", 0.0, math.inf)
        number(self.temperature, "temperature", 0.0, math.inf, open_low=True)

    def check(self, model: FlatModel, optimizer: str, momentum: float, weight_decay: float) -> None:
        """Needs features that train."""
        require(
            model.trains_features, "with `model.train: head` the features it compares never move; train more or drop it"
        )

    def modify_loss(self, local: SiteContext, batch: TrainingBatch, loss: Tensor) -> Tensor:
        """loss + mu l_con, averaged over the batch."""
        if not self.mu or END not in local.state:
            return loss
        assert batch.features is not None
        model, last, buffers = (
            local.model,
            local.vector("moon_last"),
            local.buffer("moon_buffers", (local.buffers.numel(),)),
        )
        if local.step == 0:
            local.with_local_layers(model.layout.unpack(local.state[END], last))
            model.buffer_layout.unpack(local.state[BUFFERS], buffers)
        ours = model.features_at(local.received, local.buffers, batch.images)
        theirs = model.features_at(last, buffers, batch.images)
        return loss + self.mu * contrast(batch.features, ours, theirs, self.temperature)

    def make_update(self, local: SiteContext) -> None:
        """Keep e and the site's buffers."""
        local.new_state |= {END: local.model.layout.pack(local.model.vector), BUFFERS: local.model.buffers()}

    def scratch_bytes(self, steps: int, padded: int) -> int:
        """The site's last model."""
        return 4 * padded


def contrast(features: Tensor, near: Tensor, far: Tensor, temperature: float) -> Tensor:
    """-log of the softmax share of `near` against `far`, mean over f32[N, F] each, f32[]."""
    cosines = torch.stack([cosine_similarity(features.float(), other.float()) for other in (near, far)], dim=1)
    return cross_entropy(cosines / temperature, torch.zeros(len(cosines), dtype=torch.int64, device=cosines.device))
