"""What a model's logits go through before softmax: one value, wherever a calibrated model travels.

Guo et al. 2017, arXiv:1706.04599, section 4.2: temperature scaling divides them by one number; vector scaling gives
every class a factor and a constant of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medfl.metrics.auroc import FloatArray


@dataclass(frozen=True)
class Calibration:
    """logits z -> z / temperature * scale + bias. The default changes nothing.

    Attributes:
        temperature: T > 0.
        scale, bias: of every class, in class order; both empty without vector scaling.

    Raises:
        ValueError: a number that is not finite, T or a scale that is not above 0, or as many scales as biases there are
            not.
    """

    temperature: float = 1.0
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and value > 0 for value in (self.temperature, *self.scale)):
            raise ValueError("a temperature and scales must be finite and above 0")
        if len(self.scale) != len(self.bias) or not all(map(math.isfinite, self.bias)):
            raise ValueError(
                f"{len(self.scale)} scales and {len(self.bias)} biases; each class has one of both, finite"
            )

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Calibration:
        """That of a model.json or a summary.json: `temperature`, and `calibration` with `scale` and `bias`.

        Raises:
            ValueError: it is none.
        """
        vector = facts.get("calibration") or {}
        scale, bias = (vector.get(key) or () for key in ("scale", "bias"))
        try:
            temperature = float(facts.get("temperature") or 1.0)
            return cls(temperature, tuple(map(float, scale)), tuple(map(float, bias)))
        except TypeError as error:
            raise ValueError(f"no numbers: {error}") from None

    @property
    def vector(self) -> dict[str, list[float]] | None:
        """Scale and bias as `of` reads them under `calibration`; None without vector scaling."""
        return {"scale": list(self.scale), "bias": list(self.bias)} if self.scale else None

    def apply(self, logits: FloatArray) -> FloatArray:
        """f64[N, C] -> f64[N, C]. Raises ValueError where the classes are others than those of `scale`."""
        divided: FloatArray = logits / self.temperature
        if not self.scale:
            return divided
        if logits.shape[1] != len(self.scale):
            raise ValueError(f"{len(self.scale)} scales and {logits.shape[1]} classes")
        return np.asarray(divided * np.array(self.scale) + np.array(self.bias))
