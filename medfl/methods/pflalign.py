"""pFLAlign, personalised federated learning by gradient alignment. arXiv 2605.02143, Algorithm 1.

A site keeps, for every trainable parameter, an offset D, a second moment v and a preconditioner P, all zero at first.
It starts from its personal model w = theta + D (theta being the model received), with m = 0, and takes T steps at
learning rate eta, coordinate by coordinate:

    m <- b m + (1 - b) g          v <- b v + (1 - b) g^2                       (no bias correction)
    P <- [1 - (1 - b) g^2 / (v + eps)] P + (1 - b) m^2 / (v + eps)
    gamma = 1/2 + 1/2 erf(|m| / sqrt(2 max(v - m^2, 0) + eps)) sign(m D)
    w <- w - eta P g - gamma D / T                                              D frozen during the round

Then D <- w - theta, and w is averaged as in FedAvg. gamma is the probability, under N(m, v - m^2), that the gradient
has the offset's sign; P estimates (E g)^2 / E g^2. The paper's text was not at hand: this follows a third party's
implementation of its Algorithm 1. From P = 0 the first rounds barely move, so tune the learning rate (10 to 20 times
that of SGD), or start with `p_init: 1`, which is our option and not the paper's. Because v = 0 makes the first step
forget P altogether ((1 - b) g^2 / v = 1), that option also starts v at the square of the site's first gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from medfl.methods.core.context import SiteContext
from medfl.methods.core.method import Method, number, require

ABLATIONS = (
    "none",
    "no_preconditioner",
    "no_correction",
    "constant_gamma",
    "constant_gamma_one",
    "hard_gamma",
    "no_personalization",
    "sgd",
)
PLAIN = ("no_preconditioner", "sgd")  # P = 1 in the step
UNCORRECTED = ("no_correction", "no_personalization", "sgd")  # gamma = 0
IMPERSONAL = ("no_personalization", "sgd")  # D = 0
BLOCK = 1 << 19  # values stepped at a time on a CPU: few enough for its last cache, enough to be worth two threads


@dataclass
class AlignmentState:
    """What a site knows beside the model, one tensor of the weights' shape each.

    Attributes:
        offset: D, the personal model minus the received one, as of the site's last round.
        v: running second moment of the gradient.
        P: the preconditioner.
        m: running mean of the gradient in this round.
    """

    offset: Tensor
    v: Tensor
    P: Tensor
    m: Tensor

    @classmethod
    def fresh(cls, like: Tensor) -> AlignmentState:
        """The state of a site that has never trained: zeros of the shape and type of `like`."""
        return cls(*(torch.zeros_like(like) for _ in range(4)))

    def begin(self, theta: Tensor, out: Tensor | None = None) -> Tensor:
        """Start a round from the received model: m = 0; returns w = theta + D, a new tensor or `out`."""
        self.m.zero_()
        return torch.add(theta, self.offset, out=out)

    def finish(self, w: Tensor, theta: Tensor) -> None:
        """End a round: D = w - theta."""
        torch.sub(w, theta, out=self.offset)


def step(
    w: Tensor,
    gradient: Tensor,
    state: AlignmentState,
    lr: float,
    steps: int,
    beta: float = 0.9,
    eps: float = 1e-12,
    ablation: str = "none",
) -> None:
    """One of a round's `steps` local steps, in place on `w` and on the state's m, v and P.

    Args:
        w, gradient: one-dimensional, of one float type; so are the state's tensors.
        state: of the site.
        lr: eta.
        steps: T.
        beta, eps: b and eps of the formulas above.
        ablation: one of ABLATIONS.
    """
    size = BLOCK if w.device.type == "cpu" else len(w)
    scratch = torch.empty(3, min(size, len(w)), dtype=w.dtype, device=w.device)
    floor = torch.full((), eps, dtype=w.dtype, device=w.device)
    for begin in range(0, len(w), size):
        rows = slice(begin, begin + size)
        g, m, v, P, D = gradient[rows], state.m[rows], state.v[rows], state.P[rows], state.offset[rows]
        a, square, power = scratch[:, : len(g)]  # m^2; g^2, then v + eps
        m.lerp_(g, 1 - beta)
        v.lerp_(torch.mul(g, g, out=power), 1 - beta)
        torch.mul(m, m, out=square)
        # P + (1 - b) (m^2 - g^2 P) / (v + eps), the same sum with one division
        torch.addcmul(square, power, P, value=-1, out=a)
        P.addcdiv_(a, torch.add(v, eps, out=power), value=1 - beta)
        if ablation not in UNCORRECTED:
            w[rows].sub_(_twice_gamma_offset(m, v, D, a, square, floor, ablation), alpha=0.5 / steps)
        if ablation in PLAIN:
            w[rows].sub_(g, alpha=lr)
        else:
            w[rows].addcmul_(P, g, value=-lr)


def _twice_gamma_offset(
    m: Tensor, v: Tensor, offset: Tensor, a: Tensor, square: Tensor, eps: Tensor, ablation: str
) -> Tensor:
    """2 gamma D. erf is odd, so erf(|m| / s) sign(m D) D = erf(m / s) |D|. Overwrites `a` and `square` (m^2)."""
    if ablation == "constant_gamma":
        return offset
    if ablation == "constant_gamma_one":
        return torch.mul(offset, 2, out=a)
    if ablation == "hard_gamma":
        torch.sign(m, out=a)
    else:
        torch.sub(v, square, out=a).clamp_(min=0)
        torch.add(eps, a, alpha=2, out=a).rsqrt_().mul_(m).erf_()
    return torch.addcmul(offset, a, torch.abs(offset, out=square), out=a)


@dataclass(frozen=True)
class PFLAlign(Method):
    """Personal start, preconditioned step, gated pull back towards the received model."""

    name: ClassVar[str] = "pflalign"
    paper: ClassVar[str] = "arXiv:2605.02143"
    title: ClassVar[str] = "Personalized Federated Learning for Gradient Alignment"
    neutral: ClassVar[Mapping[str, Any] | None] = {"ablation": "sgd"}
    replaces_optimiser: ClassVar[bool] = True
    owns_start: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True
    beta: float = 0.9
    eps: float = 1e-12
    p_init: float = 0
    ablation: str = "none"

    def __post_init__(self) -> None:
        number(self.beta, "beta", 0.0, 1.0)
        require(self.beta < 1, "`beta` must be below 1")
        number(self.eps, "eps", 0.0, 1.0, open_low=True)
        number(self.p_init, "p_init", 0.0, 1.0)
        require(self.p_init in (0, 1), f"`p_init` is 0 or 1, not {self.p_init!r}")
        require(self.ablation in ABLATIONS, f"`ablation` is one of {', '.join(ABLATIONS)}, not {self.ablation!r}")

    def before_training(self, local: SiteContext) -> None:
        """w = theta + D; m = 0."""
        own, layout = self._state(local), local.model.layout
        for name, vector in (("offset", own.offset), ("v", own.v), ("P", own.P)):
            kept = local.state.get(f"pflalign.{name}")
            if kept is None:
                vector.fill_(self.p_init if name == "P" else 0.0)
            else:
                layout.unpack(kept, vector)
        own.begin(local.received, out=local.model.vector)

    def optimizer_step(self, local: SiteContext) -> None:
        """One step of the formulas above."""
        assert local.gradient is not None
        own = self._state(local)
        if self.p_init and local.step == 0 and "pflalign.v" not in local.state:
            torch.mul(local.gradient, local.gradient, out=own.v)
        weights = local.part(local.model.vector)
        step(weights, local.gradient, own, local.lr, local.steps, self.beta, self.eps, self.ablation)

    def make_update(self, local: SiteContext) -> None:
        """Keep D, v, P, and the site's own model with its own buffers, to be measured later."""
        own, model = self._state(local), local.model
        if self.ablation not in IMPERSONAL:
            own.finish(model.vector, local.received)
        pack = model.layout.pack
        local.new_state |= {
            "pflalign.offset": pack(own.offset),
            "pflalign.v": pack(own.v),
            "pflalign.P": pack(own.P),
            "pflalign.end": pack(model.vector),
            "pflalign.buffers": model.buffers(),
        }

    def personal_models(
        self, state: Mapping[str, Tensor], received: Tensor
    ) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """`aligned`: theta + D; `personalised`: the site's own model as its last local training left it."""
        if "pflalign.end" not in state:
            return {}
        return {
            "aligned": received + state["pflalign.offset"],
            "personalised": (state["pflalign.end"], state["pflalign.buffers"]),
        }

    def scratch_bytes(self, steps: int, padded: int) -> int:
        """Gradient, D, v, P, m."""
        return 5 * 4 * padded

    @staticmethod
    def _state(local: SiteContext) -> AlignmentState:
        return AlignmentState(*(local.part(local.vector(f"pflalign_{name}")) for name in ("offset", "v", "P", "m")))
