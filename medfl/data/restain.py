"""Training patches restained as they are drawn, batched on the training device: one laboratory a patch.

What a laboratory does is a matrix on optical density and a white point, as in `stain.apply`; so random laboratories and
dyes of other sites are one operation, and both at once are the product of two matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfl.data.optics import F32, LEVELS
from medfl.data.stain import random_laboratories
from medfl.data.stain_exchange import DyeExchange
from medfl.seeds import seed_for


@dataclass(frozen=True)
class Laboratories:
    """One laboratory for each patch of T batches.

    Attributes:
        transforms: f32[T, B, 3, 3]; OD' = OD @ transform.
        white: f32[T, B, 3], grey levels of the empty slide.
    """

    transforms: Tensor
    white: Tensor

    def to(self, device: torch.device) -> Laboratories:
        """The same on a device."""
        return Laboratories(self.transforms.to(device), self.white.to(device))


def draw_laboratories(
    rows: NDArray[np.int64], seed: int, strength: float, share: float = 0.0, exchange: DyeExchange | None = None
) -> Laboratories | None:
    """A laboratory for each patch of `rows` i64[T, B] of a store; None where nothing is to be drawn.

    Args:
        rows: which patches.
        seed: of the draws; the same on every device.
        strength: of `stain.random_laboratories`; 0 for none.
        share: of the patches that are given dyes of another site.
        exchange: those dyes.
    """
    transforms: F32 | None = None
    white = np.full((rows.size, 3), 255, dtype=np.float32)
    if exchange is not None and share:
        rng = np.random.default_rng(seed_for(seed, "exchange"))
        transforms = np.tile(np.eye(3, dtype=np.float32), (rows.size, 1, 1))
        chosen = rng.random(rows.size) < share
        transforms[chosen] = exchange.transforms(rows.ravel()[chosen], rng)
    if strength:
        own, white = random_laboratories(np.random.default_rng(seed_for(seed, "stain")), rows.size, strength)
        transforms = own if transforms is None else transforms @ own
    if transforms is None:
        return None
    return Laboratories(
        torch.from_numpy(transforms).view(*rows.shape, 3, 3), torch.from_numpy(white).view(*rows.shape, 3)
    )


def restain(images: Tensor, transforms: Tensor, white: Tensor) -> Tensor:
    """Patches u8[B, 3, S, S] in other laboratories: f32[B, 3, S, S] in [0, 1], not rounded to grey levels.

    Args:
        images: in any memory format, which the result has too.
        transforms: f32[B, 3, 3], white: f32[B, 3], as in `Laboratories`, on the same device.
    """
    light = images.float().add_(1).mul_(1 / LEVELS).log_()  # -OD
    result, by = torch.empty_like(light), transforms[..., None, None]
    for channel in range(3):
        # no matrix product: autocast would round it
        torch.mul(light[:, 0], by[:, 0, channel], out=result[:, channel])
        result[:, channel].addcmul_(light[:, 1], by[:, 1, channel]).addcmul_(light[:, 2], by[:, 2, channel])
    result.exp_().mul_((white + 1)[:, :, None, None])
    return result.sub_(1).clamp_(0, LEVELS - 1).mul_(1 / (LEVELS - 1))
