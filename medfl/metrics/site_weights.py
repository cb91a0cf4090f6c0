"""How loud a site is in a fit to sums: by its patches, or every site the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import TypeVar

from medfl.metrics.temperature import TemperatureSums
from medfl.metrics.vector_scaling import ScalingSums

Sums = TypeVar("Sums", TemperatureSums, ScalingSums)


def pooled_sums(parts: Sequence[Sums], same: bool) -> Sums:
    """The sums of all sites together.

    With `same` each site's are multiplied by (N / S) / n, so that each of S sites with patches counts as a mean site of
    N / S; as many groups are then behind them as behind a mean of S means of g groups each, S^2 / sum 1 / g (Kish
    1965).

    Args:
        parts: those of each site, at least one; sites without patches say nothing.
        same: whether every site counts the same; otherwise every patch does.
    """
    filled = [part for part in parts if part.n]
    if not same or not filled:
        return reduce(add, parts)
    mean = math.fsum(part.n for part in filled) / len(filled)
    total = reduce(add, [part.weighted(mean / part.n) for part in filled])
    return replace(total, groups=int(len(filled) ** 2 / math.fsum(1 / part.groups for part in filled)))
