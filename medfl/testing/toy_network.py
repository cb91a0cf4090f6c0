"""Two networks so small that a round costs milliseconds, in timm's registry: `medfl_toy` with BatchNorm and
`medfl_toy_groupnorm`, which has no statistics."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn

WIDTH = 8


class ToyNetwork(nn.Module):
    """Stem, one middle convolution, pooling, a linear classifier; built like a timm backbone.

    Args:
        num_classes: C.
        batch_norm: normalise with BatchNorm, else with GroupNorm.
    """

    def __init__(self, num_classes: int, batch_norm: bool) -> None:
        super().__init__()
        norms = [nn.BatchNorm2d(WIDTH) if batch_norm else nn.GroupNorm(2, WIDTH) for _ in range(2)]
        self.stem = nn.Conv2d(3, WIDTH, 3, stride=2, padding=1, bias=False)
        self.norm1 = norms[0]
        self.body = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.norm2 = norms[1]
        self.fc = nn.Linear(WIDTH, num_classes)
        self.num_features = WIDTH
        self.pretrained_cfg: dict[str, Any] = {
            "input_size": (3, 8, 8),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "first_conv": "stem",
            "classifier": "fc",
        }

    def get_classifier(self) -> nn.Module:
        """The linear classifier."""
        return self.fc

    def forward_features(self, images: Tensor) -> Tensor:
        """Maps f32[N, F, H, W]."""
        first = self.norm1(self.stem(images)).relu()
        return torch.relu(self.norm2(self.body(first)))

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits f32[N, C] of maps, or what the classifier receives, f32[N, F]."""
        features = maps.mean((2, 3))
        logits: Tensor = features if pre_logits else self.fc(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits f32[N, C] of normalised images f32[N, 3, S, S]."""
        return self.forward_head(self.forward_features(images))


def medfl_toy(pretrained: bool = False, num_classes: int = 3, **_: Any) -> ToyNetwork:
    """With BatchNorm."""
    return ToyNetwork(num_classes, batch_norm=True)


def medfl_toy_groupnorm(pretrained: bool = False, num_classes: int = 3, **_: Any) -> ToyNetwork:
    """With GroupNorm."""
    return ToyNetwork(num_classes, batch_norm=False)


BACKBONES = ("medfl_toy", "medfl_toy_groupnorm")
register_model(medfl_toy)
register_model(medfl_toy_groupnorm)
