"""Sums over patches by which a calibration is fitted: all that leaves a site for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

COUNTS = ("n", "groups")


@dataclass(frozen=True)
class FitSums:
    """What sums of one kind can do; a kind names its arrays, and then `n`, patches, and `groups`, source groups, of
    which none is at two sites. `+` merges the patches of two disjoint sets."""

    def __add__(self, other: Self) -> Self:
        return replace(
            self, **{part.name: getattr(self, part.name) + getattr(other, part.name) for part in fields(self)}
        )

    def weighted(self, factor: float) -> Self:
        """The sums with every patch counted `factor` times; `n` and `groups` stay."""
        return replace(self, **{name: getattr(self, name) * factor for name in self._arrays()})

    def to_lists(self) -> dict[str, Any]:
        """The sums by name, ready for JSON; no digit is lost."""
        arrays = {name: getattr(self, name).tolist() for name in self._arrays()}
        return arrays | {name: getattr(self, name) for name in COUNTS}

    @classmethod
    def from_lists(cls, lists: Mapping[str, Any]) -> Self:
        """The inverse of `to_lists`."""
        arrays = {name: np.array(lists[name], dtype=np.float64) for name in cls._arrays()}
        return cls(**arrays, **{name: int(lists[name]) for name in COUNTS})

    @classmethod
    def _arrays(cls) -> list[str]:
        return [part.name for part in fields(cls) if part.name not in COUNTS]
