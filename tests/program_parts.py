"""What a program hands to a run in tests: patches of bright colours, a network, a loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import medfl

INPUT = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
CLASSES = ["lung_aca", "lung_n", "colon_n"]


def bright(seed: int, count: int = 36, size: int = 16) -> np.ndarray:
    """u8[count, size, size, 3]; patch i is bright in channel i mod 3."""
    images = np.random.default_rng(seed).integers(0, 120, (count, size, size, 3), dtype=np.uint8)
    for row, image in enumerate(images):
        image[..., row % 3] += 90
    return images


def site_patches(seed: int, count: int = 36) -> medfl.SitePatches:
    """Three patches of a patient each."""
    return medfl.SitePatches(bright(seed, count), np.arange(count) % 3, [f"{seed}-{row // 3}" for row in range(count)])


class OneConvolution(nn.Module):
    """A network that is none of timm's."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
            self.last = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.layers(images).mean((2, 3)))


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """The focal loss with gamma 2."""
    logs = logits.log_softmax(1).gather(1, labels[:, None])
    return (-((1 - logs.exp()) ** 2) * logs).mean()


def in_memory(**changes: Any) -> dict[str, Any]:
    """A pipeline whose two training sites and one held-out site hold patches in memory."""
    training = {"rounds": 2, "batch_size": 8, "threads": 1, "optimizer": {"lr": 0.05}} | changes.pop("training", {})
    return {
        "name": "in-memory",
        "seed": 3,
        "task": {"classes": CLASSES},
        "data": {"source": "program", "mode": "own", "size": 16, "mpp": 0.5},
        "sites": {"train": [site("a"), site("b")], "held_out": [site("c")]},
        "model": {"input": INPUT},
        "training": training,
        "evaluation": {"resamples": 100, "members": 0},
        "disclosure": {"min_count": 1},
        "tracking": {"enabled": False},
    } | changes


def site(name: str) -> dict[str, Any]:
    """A site at the pipeline's resolution."""
    return {"name": name, "mpp": 0.5}


def patches() -> dict[str, medfl.SitePatches]:
    """Those of the three sites."""
    return {name: site_patches(seed) for seed, name in enumerate("abc")}
