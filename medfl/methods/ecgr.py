"""ECGR, Exploratory-Convergent Gradient Re-aggregation. P. Luo et al., arXiv 2601.03584.

A site's round is split into its per-step displacements d_k = w_{k-1} - w_k (learning rate and momentum included).
K = max(1, floor(keep T)) of them form the convergent set C; the rest are exploratory. The reported displacement is

    u = sum_{k in C} d_k + beta sum_{k not in C} d_k,   then rescaled to the length of sum_k d_k.

The authors' code grows C greedily: next is the k that minimises ||S + d_k||, S being the sum chosen so far. That
needs inner products only, ||S + d_k||^2 = ||S||^2 + 2 <S, d_k> + ||d_k||^2, so one T x T Gram matrix replaces
O(T^2 P) work. beta = 1 is the base method. `norm` (shortest steps), `cosine` (best aligned with the sum) and `random`
are alternatives; `random` is the control that any careful choice must beat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from medfl.methods.core.context import SiteContext
from medfl.methods.core.local_steps import BLOCK, STORAGES, Steps
from medfl.methods.core.local_steps import gram as inner_products
from medfl.methods.core.method import Method, number, require

SELECTIONS = ("greedy", "norm", "random", "cosine")


def reaggregate(steps: Tensor, keep: float = 0.5, beta: float = 0.2, select: str = "greedy") -> tuple[Tensor, Tensor]:
    """Re-aggregate one round's displacements.

    Args:
        steps: f32[T, P], d_k = w_{k-1} - w_k.
        keep: share of steps in the convergent set, in (0, 1].
        beta: weight of the exploratory rest, in [0, 1].
        select: "greedy", "norm", "cosine" or "random" (reproducible for given steps).

    Returns:
        update f32[P] and the convergent indices i64[K] in the order chosen. A zero sum gives a zero update.

    Raises:
        ValueError: parameters out of range or `steps` not a non-empty matrix.
    """
    Ecgr(keep=keep, beta=beta, select=select)
    if steps.dim() != 2 or not len(steps):
        raise ValueError(f"steps must be a non-empty matrix [T, P], not {tuple(steps.shape)}")
    width = BLOCK["cpu"]
    blocks = (steps[:, begin : begin + width] for begin in range(0, steps.shape[1], width))
    gram = inner_products(blocks, len(steps), steps.device)
    seed = int.from_bytes(hashlib.sha256(gram.numpy().tobytes()).digest()[:7], "little")
    chosen = choose(gram, keep, select, seed)
    return coefficients(gram, chosen, beta).to(steps) @ steps, chosen


def choose(gram: Tensor, keep: float, select: str, seed: int = 0) -> Tensor:
    """The convergent indices i64[K], in the order chosen, from the Gram matrix f64[T, T] of the displacements."""
    total = len(gram)
    count = max(1, int(keep * total))
    norms = gram.diagonal()
    if select == "random":
        return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]
    if select == "norm":
        return torch.argsort(norms, stable=True)[:count]
    if select == "cosine":
        cosine = gram.sum(1) / norms.clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
        return torch.argsort(cosine, descending=True, stable=True)[:count]
    growth = norms.clone()  # ||S + d_k||^2 - ||S||^2 for every k still free
    chosen = []
    for _ in range(count):
        best = int(growth.argmin())
        chosen.append(best)
        growth += 2 * gram[best]
        growth[best] = torch.inf
    return torch.tensor(chosen)


def coefficients(gram: Tensor, chosen: Tensor, beta: float) -> Tensor:
    """f64[T]: the factor of every displacement in u, the rescaling to the plain sum's length included."""
    weights = torch.full((len(gram),), beta, dtype=gram.dtype)
    weights[chosen] = 1.0
    if beta == 1.0:
        return weights
    plain = gram.sum().clamp_min(0).sqrt()
    length = (weights @ gram @ weights).clamp_min(0).sqrt()
    # Cancellation leaves about eps times the largest product; a shorter vector has no direction to rescale.
    floor = 1e-7 * (weights * gram.diagonal().clamp_min(0).sqrt()).sum()
    return torch.zeros_like(weights) if length <= floor else weights * (plain / length)


@dataclass(frozen=True)
class Ecgr(Method):
    """Keep a convergent share of the steps whole, damp the rest by `beta`, preserve the update's length.

    `storage` says where the T steps of P values wait for the end of the round (see `medfl.methods.core.local_steps`).
    """

    name: ClassVar[str] = "ecgr"
    paper: ClassVar[str] = "arXiv:2601.03584"
    title: ClassVar[str] = "Local gradient regulation stabilizes federated learning under client heterogeneity"
    neutral: ClassVar[Mapping[str, Any] | None] = {"beta": 1.0}
    async_safe: ClassVar[bool] = True
    submodel_safe: ClassVar[bool] = True
    keep: float = 0.5
    beta: float = 0.2
    select: str = "greedy"
    storage: str = "auto"

    def __post_init__(self) -> None:
        number(self.keep, "keep", 0.0, 1.0, open_low=True)
        number(self.beta, "beta", 0.0, 1.0)
        require(self.select in SELECTIONS, f"`select` is one of {', '.join(SELECTIONS)}, not {self.select!r}")
        require(self.storage in STORAGES, f"`storage` is one of {', '.join(STORAGES)}, not {self.storage!r}")

    def after_step(self, local: SiteContext) -> None:
        """Keep the step just taken."""
        Steps(local, self.storage).record()

    def make_update(self, local: SiteContext) -> None:
        """u = sum_k a_k d_k."""
        steps = Steps(local, self.storage)
        gram = steps.gram()
        chosen = choose(gram, self.keep, self.select, local.seed)
        local.displacement = steps.combine(coefficients(gram, chosen, self.exploratory_weight(local, gram)))

    def exploratory_weight(self, local: SiteContext, gram: Tensor) -> float:
        """beta of this round, from what the site has seen and the inner products f64[T, T] of its steps."""
        return self.beta

    def scratch_bytes(self, steps: int, padded: int) -> int:
        """The recorded steps, [T, P], and their combination; in bf16 the point before a step as well."""
        return (2 * steps + 8) * padded if self.storage == "bf16" else (4 * steps + 4) * padded
