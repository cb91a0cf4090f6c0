"""How steadily a federation learns: measures over the rounds, fed one round record at a time.

A record is a `medfl.metrics.record_types.RoundRecord`; `round`, `evaluated`, `update` and each site's `role`, `val`
and whether it has `samples` are read. Its figures describe the model that enters round t, its update is the one
round t produced; the last record has figures only. Formulas and the reasons for them: docs/metrics.md. Memory grows by
a few numbers per evaluated round; a stability object is rebuilt after a restart by replaying the records.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medfl.metrics.measure import mean_supported
from medfl.metrics.record_types import RoundRecord


@dataclass(frozen=True)
class _Spread:
    """The training sites' validation AUROC in one evaluated round."""

    spread: float | None
    worst_site: str
    worst: float


def validation_auroc(record: RoundRecord) -> dict[str, float]:
    """Validation AUROC of the training sites that have one in this round, by name; empty if not evaluated."""
    if not record["evaluated"]:
        return {}
    auroc = {}
    for name, site in sorted(record["sites"].items()):
        value = (site.get("val") or {}).get("auroc")
        if site["role"] == "train" and value is not None and math.isfinite(value):
            auroc[name] = float(value)
    return auroc


def bend(before: float, between: float, after: float) -> float:
    """How far the middle of three successive values lies from the line through its neighbours, |a - 2 b + c| / 2.

    0 for steady progress at any rate, c for a value that jumps up and down by c.
    """
    return abs(before - 2 * between + after) / 2


def round_stability(record: RoundRecord) -> dict[str, float]:
    """This round's own numbers, only those that are defined.

    Keys: mean_auroc, worst_auroc, site_spread (validation data of the training sites); drift, coherence,
    update_cosine (the update of the round; drift and coherence of more than one site's).
    """
    auroc = validation_auroc(record)
    update = record.get("update")
    scatter = _scatter(record)
    values: dict[str, float | None] = {
        "mean_auroc": mean_supported(auroc.values()),
        "worst_auroc": min(auroc.values(), default=None),
        "site_spread": _spread(auroc),
        "update_cosine": _finite(update.get("cosine")) if update else None,
    }
    if scatter is not None:
        mean_sq, sq = scatter
        values["drift"] = math.sqrt(_variance(mean_sq, sq) / sq) if sq > 0 else None
        values["coherence"] = min(1.0, sq / mean_sq) if mean_sq > 0 else None  # above 1 by rounding only
    return {key: value for key, value in values.items() if value is not None}


class Stability:
    """Streaming stability of one run.

    Args:
        k: how many of the latest differences `oscillation` averages, and second differences its trend-free form.
        target: mean validation AUROC that `rounds_to_target` waits for.
    """

    def __init__(self, k: int = 10, target: float = 0.95) -> None:
        if k < 1:
            raise ValueError(f"k is {k}, must be at least 1")
        self.target = target
        self._last_round: int | None = None
        self._means: deque[float] = deque(maxlen=3)
        self._last_of_site: dict[str, float] = {}
        self._recent: deque[float] = deque(maxlen=k)
        self._bends: deque[float] = deque(maxlen=k)
        self._largest_drop: float | None = None
        self._drop_by_site: dict[str, float | None] = {}
        self._spreads: dict[int, _Spread] = {}
        self._to_target: int | None = None
        self._sums: dict[str, tuple[float, int]] = {}
        self._variance = 0.0
        self._length = 0.0
        self._inertia: dict[str, float] = {}

    def update(self, record: RoundRecord) -> None:
        """Take in the next round. Rounds must come in order, each once.

        Raises:
            ValueError: the round is not later than the one before.
        """
        t = int(record["round"])
        if self._last_round is not None and t <= self._last_round:
            raise ValueError(f"round {t} came after round {self._last_round}")
        self._last_round = t
        scalars = round_stability(record)
        self._take_sites(t, record, scalars)
        self._take_update(record, scalars)

    def summary(self, selected_round: int | None = None) -> dict[str, Any]:
        """All measures, JSON-ready, None where not defined.

        Args:
            selected_round: the round of the selected model, at which the sites are compared; by default the
                last evaluated one. Where that round was not evaluated the comparison is None.
        """
        if selected_round is None:
            selected_round = max(self._spreads, default=None)
        at = None if selected_round is None else self._spreads.get(selected_round)
        return {
            "oscillation": mean_supported(self._recent),
            "trend_free_oscillation": mean_supported(self._bends),
            "largest_drop": self._largest_drop,
            "largest_drop_by_site": dict(sorted(self._drop_by_site.items())),
            "site_spread": at.spread if at else None,
            "worst_site": at.worst_site if at else None,
            "worst_site_auroc": at.worst if at else None,
            "drift": self._mean("drift"),
            "coherence": self._mean("coherence"),
            "update_cosine": self._mean("update_cosine"),
            "accumulated_variance": self._variance / self._length if self._length > 0 else None,
            "rounds_to_target": self._to_target,
            "inertia": dict(self._inertia),
        }

    def _take_sites(self, t: int, record: RoundRecord, scalars: Mapping[str, float]) -> None:
        sites = validation_auroc(record)
        for name, site in record["sites"].items():
            if site["role"] == "train":
                self._drop_by_site.setdefault(name, None)
        if not sites:
            return
        mean = scalars["mean_auroc"]
        if self._means:
            self._recent.append(abs(mean - self._means[-1]))
            self._largest_drop = _larger(self._largest_drop, self._means[-1] - mean)
        self._means.append(mean)
        if len(self._means) == 3:
            self._bends.append(bend(*self._means))
        for name, value in sites.items():
            if name in self._last_of_site:
                self._drop_by_site[name] = _larger(self._drop_by_site[name], self._last_of_site[name] - value)
            self._last_of_site[name] = value
        worst = min(sites, key=lambda name: sites[name])
        self._spreads[t] = _Spread(scalars.get("site_spread"), worst, sites[worst])
        if self._to_target is None and mean >= self.target:
            self._to_target = t

    def _take_update(self, record: RoundRecord, scalars: Mapping[str, float]) -> None:
        for key in ("drift", "coherence", "update_cosine"):
            if key in scalars:
                total, count = self._sums.get(key, (0.0, 0))
                self._sums[key] = (total + scalars[key], count + 1)
        if (scatter := _scatter(record)) is not None:
            self._variance += _variance(*scatter)
            self._length += scatter[1]
        update = record.get("update")
        for stage, value in (update.get("inertia") or {} if update else {}).items():
            change = _finite(value)
            if change is not None:
                self._inertia[stage] = change

    def _mean(self, key: str) -> float | None:
        total, count = self._sums.get(key, (0.0, 0))
        return total / count if count else None


def _scatter(record: RoundRecord) -> tuple[float, float] | None:
    """(sum_i p_i ||D_i||^2, ||D||^2) of a round; None where they are not known, or one site's update alone made the
    round, which then has nothing that could scatter."""
    update, trained = record.get("update"), [site for site in record["sites"].values() if "samples" in site]
    if not update or len(trained) == 1:
        return None
    mean_sq, sq = _finite(update.get("mean_sq")), _finite(update.get("sq"))
    return None if mean_sq is None or sq is None else (mean_sq, sq)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _larger(so_far: float | None, value: float) -> float:
    return value if so_far is None else max(so_far, value)


def _variance(mean_sq: float, sq: float) -> float:
    """sum_i p_i ||D_i - D||^2; not negative by Jensen, up to rounding."""
    return max(0.0, mean_sq - sq)


def _spread(auroc: Mapping[str, float]) -> float | None:
    """Standard deviation over the sites (the sites are the population, ddof 0); None below two sites."""
    if len(auroc) < 2:
        return None
    mean = math.fsum(auroc.values()) / len(auroc)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in auroc.values()) / len(auroc))
