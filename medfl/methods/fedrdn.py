"""FedRDN. Y. Yan et al., "A Simple Data Augmentation for Feature Distribution Skewed Federated Learning",
arXiv 2306.09363.

Sites tell each other the mean and deviation of their pixels, six numbers a site (eq. 3, over the training patches), and
each training image is normalised with those of a site drawn at random (eq. 4):

    x <- (x - mu_j) / sigma_j,    j drawn anew for every image and step.

Here the result is brought back to the scale of the mean site, x <- mu + sigma (x - mu_j) / sigma_j with mu and sigma
the means over the sites, before the backbone's own normalisation. That is one fixed map behind the paper's, which the
first layer could undo; with it pretrained weights find the input they know. The paper measures a site with its own
numbers; here images are measured as they are, as those of the mean site, so that the model needs no numbers of the
hospital where it is used. Before the first exchange, and with `probability: 0`, which is FedAvg, images are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from medfl.messages import Reply
from medfl.methods.core.context import ServerContext, SiteContext
from medfl.methods.core.method import Method, number

STATISTICS = "fedrdn.statistics"  # mean and deviation per channel of values in [0, 1]; up f32[6], down f32[6 K]
FLAT = 1e-3  # a smaller deviation is that of an empty slide
CHUNK = 256  # patches looked at together


@dataclass(frozen=True)
class FedRDN(Method):
    """Normalise each training image like one of a site drawn at random; sites exchange six numbers each."""

    name: ClassVar[str] = "fedrdn"
    paper: ClassVar[str] = "arXiv:2306.09363"
    title: ClassVar[str] = "A Simple Data Augmentation for Feature Distribution Skewed Federated Learning"
    neutral: ClassVar[Mapping[str, Any] | None] = {"probability": 0.0}
    sends: ClassVar[Mapping[str, int]] = {STATISTICS: 6}
    probability: float = 1.0

    def __post_init__(self) -> None:
        number(self.probability, "probability", 0.0, 1.0)

    def send(self, server: ServerContext, site: str) -> dict[str, Tensor]:
        """The numbers of all sites that have told theirs, in the order of names."""
        of_sites = [server.tensors[key] for key in sorted(server.tensors) if key.startswith(f"{STATISTICS}.")]
        return {STATISTICS: torch.cat(of_sites)} if of_sites else {}

    def transform_batch(self, local: SiteContext, images: Tensor) -> Tensor:
        """mu + sigma (x - mu_j) / sigma_j for each image, in the backbone's normalised scale."""
        if STATISTICS not in local.extra or not self.probability:
            return images
        generator = torch.Generator().manual_seed(local.seed + local.step)
        table = local.extra[STATISTICS].view(-1, 2, 3)
        site = torch.randint(len(table), (len(images),), generator=generator)
        chosen = torch.rand(len(images), generator=generator) < self.probability
        mean, deviation = (table.mean(0)[part].expand(len(images), 3) for part in (0, 1))
        own_mean, own_deviation = table[site, 0], table[site, 1].clamp_min(FLAT)
        scale = torch.where(chosen[:, None], deviation / own_deviation, 1.0)
        shift = torch.where(chosen[:, None], mean - scale * own_mean, 0.0)
        # In normalised values z = (x - m) / s: z <- scale z + (scale m + shift - m) / s.
        m, s = torch.tensor(local.model.mean), torch.tensor(local.model.std)
        factors = torch.stack([scale, (scale * m + shift - m) / s]).to(images)[..., None, None]
        return images * factors[0] + factors[1]

    def make_update(self, local: SiteContext) -> None:
        """Send the site's six numbers."""
        local.extra_up[STATISTICS] = pixel_statistics(local)

    def on_reply(self, server: ServerContext, reply: Reply) -> None:
        """Hold them until the round counts."""
        server.round_sums[f"{STATISTICS}.{reply.site}"] = reply.extra[STATISTICS]

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """Keep what the round's sites told."""
        server.tensors |= {key: v for key, v in server.round_sums.items() if key.startswith(f"{STATISTICS}.")}
        return mean


def pixel_statistics(local: SiteContext) -> Tensor:
    """f32[6]: mean and deviation per channel of the site's training patches, values in [0, 1]; taken once a run."""
    statistics = local.state.get(STATISTICS)
    if statistics is None:
        patches = torch.from_numpy(local.patches())
        sums, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for begin in range(0, len(patches), CHUNK):
            values = patches[begin : begin + CHUNK].reshape(-1, 3).double() / 255
            sums, squares = sums + values.sum(0), squares + values.square().sum(0)
        count = patches[..., 0].numel()
        mean = sums / count
        statistics = torch.cat([mean, (squares / count - mean.square()).clamp_min(0).sqrt()]).float()
        local.new_state[STATISTICS] = statistics
    return statistics
