"""Networks that classify a bag of feature vectors: multiple-instance learning. The served model carries this file, so
it imports nothing of medfl.

A slide is a bag of tiles, each of them a vector x_k of numbers that an encoder gave. Every tile is embedded, the
embeddings are pooled into one vector for the slide, and a linear classifier reads that:

    h_k = relu(W x_k + b),    z = pool of the h_k,    logits = C z + c.

`abmil` pools by gated attention (M. Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018,
arXiv:1802.04712, eq. 8 and 9), `mean` and `max` by the mean and the largest value of each number:

    z = sum a_k h_k,    a = softmax over the bag of  w^T (tanh(V h_k) * sigmoid(U h_k)).

Bags of a batch stand one after another, with no padding: what is done tile by tile is done to all of them at once, and
what is done bag by bag to each by itself, so that a bag's result does not depend on its company.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medfl.metrics.formatting import BAG_NETWORK

POOLS = ("abmil", "mean", "max")
BAG_ARGUMENTS = ("attention", "norm")
"""What `model.args` may say of such a network beside `dim` and `hidden`."""
PREFIX = BAG_NETWORK
"""Before the pool in a network's name."""


@dataclass(frozen=True)
class Bags:
    """Bags of feature vectors, one after another.

    Attributes:
        features: f32[N, F], every instance of every bag.
        sizes: how many of them are each bag's; they sum to N.
    """

    features: Tensor
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Values [N, ...] of the instances, bag by bag."""
        return torch.split(values, list(self.sizes))


class MeanPool(nn.Module):
    """The mean over a bag."""

    def weights(self, embeddings: Tensor, bags: Bags) -> Tensor:
        """f32[N]: 1 / n for each of a bag's n instances."""
        return torch.cat([part.new_full((len(part),), 1 / len(part)) for part in bags.split(embeddings)])

    def forward(self, embeddings: Tensor, bags: Bags) -> Tensor:
        """f32[N, H] -> f32[B, H]."""
        return torch.stack([part.mean(0) for part in bags.split(embeddings)])


class MaxPool(nn.Module):
    """The largest value of each number over a bag."""

    def weights(self, embeddings: Tensor, bags: Bags) -> Tensor:
        """f32[N]: the share of the numbers whose largest value is the instance's; sums to 1 over a bag."""
        shares = []
        for part in bags.split(embeddings):
            counts = torch.bincount(part.argmax(0), minlength=len(part))
            shares.append(counts.to(part.dtype) / part.shape[1])
        return torch.cat(shares)

    def forward(self, embeddings: Tensor, bags: Bags) -> Tensor:
        """f32[N, H] -> f32[B, H]."""
        return torch.stack([part.amax(0) for part in bags.split(embeddings)])


class GatedAttention(nn.Module):
    """The mean over a bag weighed by gated attention, with `width` hidden units."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.content = nn.Linear(hidden, width)  # V
        self.gate = nn.Linear(hidden, width)  # U
        self.score = nn.Linear(width, 1)  # w

    def weights(self, embeddings: Tensor, bags: Bags) -> Tensor:
        """f32[N]: the attention to each instance; sums to 1 over a bag."""
        return torch.cat([part[:, 0] for part in self._of_bags(embeddings, bags)])

    def forward(self, embeddings: Tensor, bags: Bags) -> Tensor:
        """f32[N, H] -> f32[B, H]."""
        weights = self._of_bags(embeddings, bags)
        pooled = [a.to(h.dtype).T @ h for a, h in zip(weights, bags.split(embeddings), strict=True)]
        return torch.cat(pooled)

    def _of_bags(self, embeddings: Tensor, bags: Bags) -> list[Tensor]:
        """f32[n, 1] of each bag."""
        scores = self.score(torch.tanh(self.content(embeddings)) * torch.sigmoid(self.gate(embeddings)))
        return [torch.softmax(part.float(), dim=0) for part in bags.split(scores)]


class BagNetwork(nn.Module):
    """Embedding, pool and classifier, in the parts that timm's networks have.

    Args:
        classes: C.
        pool: one of POOLS.
        dim: F, numbers of a feature vector.
        hidden: H, numbers of an embedding.
        attention: hidden units of the attention.
        norm: normalise each embedding (LayerNorm) before the relu.

    Raises:
        ValueError: another pool.
    """

    def __init__(
        self, classes: int, pool: str, dim: int, hidden: int = 256, attention: int = 128, norm: bool = False
    ) -> None:
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"the pool is one of {', '.join(POOLS)}, not {pool}")
        self.dim = dim
        self.embed = nn.Linear(dim, hidden)
        self.norm = nn.LayerNorm(hidden) if norm else nn.Identity()
        self.pool: Any = GatedAttention(hidden, attention) if pool == "abmil" else MeanPool()
        if pool == "max":
            self.pool = MaxPool()
        self.fc = nn.Linear(hidden, classes)

    def get_classifier(self) -> nn.Module:
        """The linear classifier."""
        return self.fc

    def embeddings(self, bags: Bags) -> Tensor:
        """f32[N, H] of every instance."""
        embedded: Tensor = self.norm(self.embed(bags.features)).relu()
        return embedded

    def forward_features(self, bags: Bags) -> Tensor:
        """What stands for each bag, f32[B, H]."""
        pooled: Tensor = self.pool(self.embeddings(bags), bags)
        return pooled

    def forward_head(self, pooled: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits f32[B, C], or what the classifier receives, f32[B, H]."""
        logits: Tensor = pooled if pre_logits else self.fc(pooled)
        return logits

    def forward(self, bags: Bags) -> Tensor:
        """Logits f32[B, C]."""
        return self.forward_head(self.forward_features(bags))

    def attention(self, bags: Bags) -> tuple[Tensor, ...]:
        """How much each instance counts in its bag, f32[n] of each bag, of sum 1."""
        weights: Tensor = self.pool.weights(self.embeddings(bags), bags)
        return bags.split(weights)


def is_bag_network(backbone: str | None) -> bool:
    """Whether a network of this name takes bags."""
    return backbone is not None and backbone.startswith(PREFIX)


def build_bag_network(backbone: str, classes: int, args: Mapping[str, Any]) -> BagNetwork:
    """Build `mil_abmil`, `mil_mean` or `mil_max` with initial weights; `args` are those of BagNetwork.

    Raises:
        ValueError: another name. TypeError: an argument that it does not have.
    """
    return BagNetwork(classes, backbone.removeprefix(PREFIX), **args)
