"""Reliability in bins of equal mass, and how far noise alone moves them.

Bins of equal width leave a network that is sure of itself with one full bin and fourteen shaky ones (Nixon et al. 2019,
arXiv:1904.01685). Here every bin holds about as many patches, at least `LEAST_GROUPS` source groups, and no confidence
is on both sides of an edge; the edges themselves, which are single scores, are not told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medfl.metrics.auroc import FloatArray, IndexArray

ADAPTIVE_BINS = 10
LEAST_GROUPS = 5
Bins = Mapping[str, Sequence[Any]]
"""{"count", "groups", "confidence", "accuracy"}: an entry a bin; groups is None where nothing tells of them."""


def equal_mass_cells(confidence: FloatArray, bins: int = ADAPTIVE_BINS) -> IndexArray:
    """Cell [N], from 0, of each patch, so that every cell holds about N / `bins` of them; equal values share one."""
    rank = np.searchsorted(np.sort(confidence), confidence, side="left")
    return np.asarray(rank * bins // max(len(confidence), 1), dtype=np.intp)


def joined_bins(reliability: Mapping[str, Sequence[Any]], bins: int = ADAPTIVE_BINS) -> dict[str, list[Any]]:
    """Neighbouring bins of a reliability diagram joined until each holds 1 / `bins` of the patches: what is left to do
    with merged sums of several sites, or with a run that has no bins of equal mass."""
    parts = [
        (n, n * c, n * a)
        for n, c, a in zip(reliability["count"], reliability["confidence"], reliability["accuracy"], strict=True)
        if n and c is not None and a is not None
    ]
    least = math.fsum(n for n, _, _ in parts) / bins
    joined: list[list[float]] = []
    for part in parts:
        if joined and joined[-1][0] < least:
            joined[-1] = [mine + more for mine, more in zip(joined[-1], part, strict=True)]
        else:
            joined.append(list(part))
    if len(joined) > 1 and joined[-1][0] < least:
        last = joined.pop()
        joined[-1] = [mine + more for mine, more in zip(joined[-1], last, strict=True)]
    return {
        "count": [int(n) for n, _, _ in joined],
        "groups": [None] * len(joined),
        "confidence": [c / n for n, c, _ in joined],
        "accuracy": [a / n for n, _, a in joined],
    }


def noise_bands(bins: Bins) -> list[tuple[float, float]]:
    """Per bin, where 95 % of the accuracies of a calibrated model would lie, from chance in as many source groups."""
    bands = []
    for confidence, spread in zip(bins["confidence"], _spreads(bins), strict=True):
        bands.append((max(0.0, confidence - 1.96 * spread), min(1.0, confidence + 1.96 * spread)))
    return bands


def noise_floor(bins: Bins) -> float | None:
    """The calibration error that a calibrated model would show in these bins on average, from chance alone; None
    without patches.

    The mean of |x| of a normal x is its standard deviation times sqrt(2 / pi).
    """
    total = math.fsum(bins["count"])
    if not total:
        return None
    parts = (n * spread for n, spread in zip(bins["count"], _spreads(bins), strict=True))
    return math.sqrt(2 / math.pi) * math.fsum(parts) / total


def _spreads(bins: Bins) -> list[float]:
    """Standard error of each bin's accuracy were its confidence right. A source group counts as one draw, since its
    patches are alike; so it is rather too large than too small."""
    units = [count if groups is None else groups for count, groups in zip(bins["count"], bins["groups"], strict=True)]
    return [math.sqrt(c * (1 - c) / n) if n else 0.0 for c, n in zip(bins["confidence"], units, strict=True)]
