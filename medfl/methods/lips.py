"""LIPS, transient sparsity against layer-wise inertia. Q. Xiao et al., arXiv 2506.00932.

The middle layers of a federated model hardly move after the first rounds. When round i = 0, period, 2 period ... has
been merged, each site's copy of the new model is masked: in each middle convolution the share

    d(i) = density + (1 - density) i / R

of weights with the largest sensitivity |g * W| stays, the others are set to zero once, and in round i + 1 the site
trains densely from there; nothing is held at zero. With period 5 and 12 rounds, rounds 1, 6 and 11 begin with 50, 29
and 8 % of those weights at zero. g is the gradient of the site's own last mini-batch, which the site keeps (as 16-bit
floats), so it cuts the mask itself and no byte more is sent. A site that keeps none yet trains densely that round.

`criterion` magnitude ranks by |W| and random at random, on the same rounds and sites: the controls that sensitivity
must beat. `local_norm` keeps normalisation layers at the sites: the authors' release, made to run, never writes biases
and normalisation back from the server, and which of the two their tables used is not known. The release cuts the mask
when round i ends; here a site cuts it when it begins round i + 1, so what a site is sent and measured with is dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medfl.methods.core.context import SiteContext
from medfl.methods.core.method import Method, number, require
from medfl.model.flat_model import FlatModel
from medfl.model.layout import Slot

CRITERIA = ("sensitivity", "magnitude", "random")
STEMS = ("stem", "conv1", "patch_embed")  # timm's names for a stem that is a module of its own
GRADIENT = "lips.gradient"  # f16: last-batch gradients of the middle convolutions, one after another


def transient_mask(weight: Tensor, gradient: Tensor, density: float) -> Tensor:
    """The weights of one layer that stay: the floor(density * numel) largest |gradient * weight|.

    Args:
        weight, gradient: of one shape.
        density: in (0, 1].

    Returns:
        bool tensor of that shape. Of equal scores the first in row-major order stay.

    Raises:
        ValueError: density out of range or shapes that differ.
    """
    number(density, "density", 0.0, 1.0, open_low=True)
    require(weight.shape == gradient.shape, f"weight {tuple(weight.shape)} and gradient {tuple(gradient.shape)} differ")
    score = (gradient.to(weight.dtype) * weight).abs().reshape(-1)
    total, count = len(score), int(density * len(score))
    if count == 0:
        return torch.zeros_like(weight, dtype=torch.bool)
    threshold = score.kthvalue(total - count + 1).values  # linear time; a sort would dominate the round
    mask = score > threshold
    ties = (score == threshold).nonzero().flatten()
    mask[ties[: count - int(mask.sum())]] = True
    return mask.view(weight.shape)


def middle_convolutions(model: FlatModel) -> list[Slot]:
    """Slots of the convolution weights that LIPS may mask.

    Every trainable `nn.Conv2d` weight, 1x1 shortcuts included, but those of the stem and the classifier. The stem is
    the backbone's `first_conv` (timm's pretrained_cfg; where it names none, the first convolution) and, where that
    lies inside a module called stem, conv1 or patch_embed, everything in that module; a whole backbone inside
    patch_embed is no stem.
    """
    names = [name for name, module in model.net.named_modules() if isinstance(module, nn.Conv2d)]
    config = getattr(model.net, "pretrained_cfg", None) or {}
    outside = [_stem(name) for name in _names(config.get("first_conv")) or names[:1]]
    outside += [*_names(config.get("classifier")), "pre_logits"]
    middle = {f"{n}.weight" for n in names if not any(n == o or n.startswith(f"{o}.") for o in outside)}
    return [slot for slot in model.layout.slots if slot.name in middle]


def _names(names: str | tuple[str, ...] | list[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or ())


def _stem(name: str) -> str:
    parts = name.split(".")
    for depth, part in enumerate(parts[:-1]):
        if part in STEMS and parts[depth + 1] != "backbone":
            return ".".join(parts[: depth + 1])
    return name


@dataclass(frozen=True)
class Lips(Method):
    """Periodic, transient sparsity of the middle convolutions."""

    name: ClassVar[str] = "lips"
    looks_ahead: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv:2506.00932"
    title: ClassVar[str] = "From Stagnation to Elevation: Empower Aggregation in FL through the Lens of Sparsity"
    neutral: ClassVar[Mapping[str, Any] | None] = {"density": 1.0}
    period: int = 5
    density: float = 0.5
    criterion: str = "sensitivity"
    local_norm: bool = False

    def __post_init__(self) -> None:
        whole = isinstance(self.period, int) and not isinstance(self.period, bool) and self.period >= 1
        require(whole, f"`period` must be a whole number of rounds, at least 1, not {self.period!r}")
        number(self.density, "density", 0.0, 1.0, open_low=True)
        require(self.criterion in CRITERIA, f"`criterion` is one of {', '.join(CRITERIA)}, not {self.criterion!r}")
        require(isinstance(self.local_norm, bool), f"`local_norm` is true or false, not {self.local_norm!r}")

    @property
    def local_norms(self) -> bool:
        """As the user chose."""
        return self.local_norm

    def check(self, model: FlatModel, optimizer: str, momentum: float, weight_decay: float) -> None:
        """Refuse a backbone without middle convolutions."""
        require(
            bool(middle_convolutions(model)),
            f"{model.spec.backbone} has no trainable convolution between stem and classifier to mask; take a "
            f"convolutional backbone or leave lips out",
        )

    def density_at(self, round_: int, rounds: int) -> float:
        """d(i) of the mask that is cut when round i has been merged."""
        return min(1.0, self.density + (1 - self.density) * round_ / rounds)

    def before_training(self, local: SiteContext) -> None:
        """In the round after a masking round, zero what the mask leaves out."""
        merged = local.round - 1
        density = self.density_at(merged, local.rounds)
        if merged < 0 or merged % self.period or density == 1 or GRADIENT not in local.state:
            return
        slots = middle_convolutions(local.model)
        kept = local.state[GRADIENT].to(local.received.device)
        gradients = torch.split(kept, [slot.numel for slot in slots])
        generator = torch.Generator().manual_seed(local.seed)
        for slot, gradient in zip(slots, gradients, strict=True):
            weight = slot.view(local.model.vector)
            if self.criterion == "sensitivity":
                mask = transient_mask(weight, gradient.view(slot.shape), density)
            elif self.criterion == "magnitude":
                mask = transient_mask(weight, torch.ones_like(weight), density)
            else:
                drawn = torch.rand(slot.shape, generator=generator).to(weight)
                mask = transient_mask(drawn, torch.ones_like(drawn), density)
            weight.mul_(mask)

    def on_last_gradient(self, local: SiteContext) -> None:
        """Keep the last batch's gradient of the middle convolutions."""
        assert local.gradient is not None
        gradients = [slot.view(local.gradient).reshape(-1) for slot in middle_convolutions(local.model)]
        local.new_state[GRADIENT] = torch.cat([_half(g) for g in gradients])


def _half(gradient: Tensor) -> Tensor:
    """f16 of a layer's gradient, first scaled by a power of two to a largest value in [1/2, 1).

    A ranking inside the layer does not change, and gradients far below f16's smallest number are not lost.
    """
    _, exponent = torch.frexp(gradient.abs().max())
    return torch.ldexp(gradient, -exponent).half()
