"""Differential privacy of whole sites, DP-FedAvg. H. B. McMahan et al., "Learning Differentially Private Recurrent
Language Models", arXiv 1710.06963, algorithm 1, with a server that is trusted.

Every site shortens its update to `clip` before it leaves, and the server takes, for the m sites drawn in the round,

    w <- w - (1/m) (sum_i D_i min(1, C / ||D_i||) + N(0, (noise C)^2 I)).

All sites weigh the same, whatever their samples: with a weight per sample the bound on one site's part would depend on
its sample count, which is data. m counts the sites that were drawn, not those that replied, so that it is known before
anybody trains; a site that does not reply adds nothing. The noise comes from the operating system's entropy, value by
value, and nothing is kept from which it could be drawn again. `seeded: true` draws it from the run's seed, for tests:
whoever knows the seed subtracts the noise, and nothing is private.

`epsilon` is a budget: no round is begun whose release would pass it, and where no `noise` is stated the one that spends
it in the planned rounds is taken when the pipeline is read. What the noise buys is accounted in
medfl.runs.privacy_ledger: a run with a site against one without it (add or remove), not against one in which it is
replaced. docs/privacy.md says what it covers and what not.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from medfl.messages import Reply
from medfl.methods.core.chain import MethodChain
from medfl.methods.core.context import ServerContext, SiteContext
from medfl.methods.core.method import Method, number, require
from medfl.model.flat_model import FlatModel
from medfl.seeds import seed_for

BLOCK = 1 << 18  # values of noise drawn at a time
SHORTER = 1 - 1e-6  # a clipped update is this much shorter than the bound, so that rounding never takes it above


@dataclass(frozen=True)
class Dp(Method):
    """Differential privacy of whole sites: updates clipped at the site, equal weights, Gaussian noise at the server."""

    name: ClassVar[str] = "dp"
    paper: ClassVar[str] = "arXiv:1710.06963"
    title: ClassVar[str] = "Learning Differentially Private Recurrent Language Models"
    private: ClassVar[bool] = True
    weighs_equally: ClassVar[bool] = True
    runs_last: ClassVar[bool] = True  # what is sent must be what was clipped
    clip: float = 1.0
    noise: float = 1.0
    epsilon: float | None = None
    delta: float = 1e-5
    seeded: bool = False

    def __post_init__(self) -> None:
        number(self.clip, "clip", 0.0, math.inf, open_low=True)
        number(self.noise, "noise", 0.0, math.inf, open_low=True)
        if self.epsilon is not None:
            number(self.epsilon, "epsilon", 0.0, math.inf, open_low=True)
        number(self.delta, "delta", 0.0, 0.5, open_low=True)
        require(isinstance(self.seeded, bool), f"`seeded` must be true or false, not {self.seeded!r}")

    def check(self, model: FlatModel, optimizer: str, momentum: float, weight_decay: float) -> None:
        """Refuse a backbone whose statistics would leave the sites as they are."""
        require(
            model.buffer_layout.size == 0,
            f"{model.spec.backbone} has BatchNorm statistics ({model.buffer_layout.size:,} values), which leave a site "
            f"beside its update and cannot be clipped with it in a sensible unit; take a backbone with group or layer "
            f"normalisation, such as `backbone: resnet18` with `args: {{norm_layer: groupnorm}}`, or a ConvNeXt or ViT",
        )

    def make_update(self, local: SiteContext) -> None:
        """u min(1, C / ||u||), the length taken in double precision; nothing else may be sent."""
        if local.extra_up:
            raise ValueError(f"under dp a site sends its clipped update alone, not {', '.join(sorted(local.extra_up))}")
        moved = local.displacement
        if moved is None:
            moved = torch.sub(local.start, local.model.vector, out=local.vector("displacement"))
        length = float(torch.linalg.vector_norm(moved, dtype=torch.float64))
        local.displacement = moved * (self.clip / length * SHORTER) if length > self.clip else moved

    def aggregation_weight(self, server: ServerContext, reply: Reply) -> float:
        """1, or less where a site did not clip: no site moves the sum by more than C."""
        return min(1.0, self.clip / math.sqrt(reply.square)) if reply.square > 0 else 1.0

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """(sum + noise) / m; `mean` is the sum over all samples."""
        normal = self._seeded(server) if self.seeded else entropy_normal
        total = mean.mul_(sum(server.samples.values()))
        for begin in range(0, len(total), BLOCK):
            block = total[begin : begin + BLOCK]
            block += self.noise * self.clip * normal(len(block))
        return total.div_(len(server.participants))

    @staticmethod
    def _seeded(server: ServerContext) -> Callable[[int], Tensor]:
        generator = torch.Generator().manual_seed(seed_for(server.seed, "dp", server.round))
        return lambda count: torch.randn(count, generator=generator)


def private_link(chain: MethodChain) -> Dp | None:
    """The chain's `dp`, if it has one."""
    return next((method for method in chain.methods if isinstance(method, Dp)), None)


def entropy_normal(count: int) -> Tensor:
    """f32[count], standard normal: the quantiles of numbers of 52 bits from the operating system's entropy."""
    normal: Tensor = torch.special.ndtri(entropy_uniform(count))
    return normal.float()


def entropy_uniform(count: int) -> Tensor:
    """f64[count], uniform between 0 and 1, neither of which occurs: 52 bits each of the operating system's entropy."""
    bits = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(12)
    return torch.from_numpy((bits.astype(np.float64) + 0.5) * 2.0**-52)
