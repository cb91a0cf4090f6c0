"""ECGR whose strength follows what is observed, which the article (P. Luo et al., arXiv 2601.03584) names as future
work; the two rules are this project's own.

ECGR damps the exploratory steps by a fixed beta. Here beta moves between its stated value, where vectors have nothing
in common, and 1, where they are one and the same and there is nothing to damp:

    beta_t = beta + (1 - beta) a,   a = agreement of vectors v_i with weights p_i, sum_i p_i = 1:

    a = sum_{i != j} p_i p_j <v_i, v_j> / sum_i p_i (1 - p_i) ||v_i||^2,   cut to [0, 1]

a is 0 for orthogonal vectors of any length and 1 for equal ones. `by` says whose agreement it is:

    coherence   a site's own steps d_k of this round, p_k = 1 / T. Momentum makes neighbouring steps alike, so a is
                higher under it. Nothing more is sent.
    spread      the sites' updates of the last round that counted, weighted by samples; the server sends this one
                number with the next. Before the first one a is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from medfl.messages import Reply
from medfl.methods.core.context import ServerContext, SiteContext
from medfl.methods.core.method import Method, require
from medfl.methods.ecgr import Ecgr

RULES = ("coherence", "spread")
AGREEMENT = "adaptive_ecgr.agreement"  # a, f32[1]; travels down
SUM, LENGTHS = "adaptive_ecgr.sum", "adaptive_ecgr.lengths"  # sum n u; sums of n, n |u|^2, n^2 |u|^2


def agreement(together: float, apart: float, single: float) -> float:
    """How far weighted vectors point the same way.

    Args:
        together: ||sum_i p_i v_i||^2.
        apart: sum_i p_i ||v_i||^2.
        single: sum_i p_i^2 ||v_i||^2.

    Returns:
        In [0, 1]; 1 for one vector alone, and 0 where all are zero.
    """
    if apart <= 0:
        return 0.0
    if apart - single <= 1e-12 * apart:
        return 1.0
    return min(max((together - single) / (apart - single), 0.0), 1.0)


@dataclass(frozen=True)
class AdaptiveEcgr(Ecgr):
    """ECGR that damps less where a site's steps, or the sites' updates, agree; `beta` is where they do not."""

    name: ClassVar[str] = "adaptive_ecgr"
    paper: ClassVar[str] = "arXiv:2601.03584"
    neutral: ClassVar[Mapping[str, Any] | None] = {"beta": 1.0}
    by: str = "coherence"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.by in RULES, f"`by` is one of {', '.join(RULES)}, not {self.by!r}")

    def check_compatible(self, other: Method) -> None:
        """Two re-aggregations of the same steps cannot both be reported."""
        require(not isinstance(other, Ecgr), f"adaptive_ecgr is {other.name} with another beta; keep one of them")

    def exploratory_weight(self, local: SiteContext, gram: Tensor) -> float:
        """beta + (1 - beta) a."""
        if self.by == "spread":
            share = float(local.extra[AGREEMENT])
        else:
            lengths = float(gram.trace())
            share = agreement(float(gram.sum()) / len(gram) ** 2, lengths / len(gram), lengths / len(gram) ** 2)
        return self.beta + (1 - self.beta) * share

    def send(self, server: ServerContext, site: str) -> dict[str, Tensor]:
        """The agreement of the last updates."""
        return {AGREEMENT: torch.tensor([server.json_state.get(self.name, 0.0)])} if self.by == "spread" else {}

    def on_reply(self, server: ServerContext, reply: Reply) -> None:
        """Sum updates and their lengths."""
        if self.by != "spread":
            return
        assert reply.update is not None
        total = server.round_sums.setdefault(SUM, torch.zeros_like(server.weights))
        total.add_(reply.update, alpha=reply.samples)
        count, length = float(reply.samples), float(reply.update.double().square().sum())
        lengths = server.round_sums.setdefault(LENGTHS, torch.zeros(3, dtype=torch.float64))
        lengths += torch.tensor([count, count * length, count**2 * length], dtype=torch.float64)

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """Keep the agreement for the next round; the mean stays as it is."""
        if self.by == "spread":
            samples, apart, single = server.round_sums[LENGTHS].tolist()
            together = float(server.round_sums[SUM].double().square().sum()) / samples**2
            server.json_state[self.name] = agreement(together, apart / samples, single / samples**2)
        return mean
