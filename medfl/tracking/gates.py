"""What a result must reach to enter the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medfl import config


@dataclass(frozen=True)
class Miss:
    """A gate that was not passed.

    Attributes:
        gate: its key in the pipeline file.
        bound: what it asks for.
        figure: what the run reached; None when there is no such figure.
        what: which figure, in words.
    """

    gate: str
    bound: float
    figure: float | None
    what: str

    def __str__(self) -> str:
        if self.figure is None:
            return f"{self.gate}: {self.what} is not available, {self.bound:g} is asked for"
        side = "above" if self.gate.endswith("_max") else "below"
        return f"{self.gate}: {self.what} is {self.figure:.4f}, {side} the bound {self.bound:g}"


def check(summary: Mapping[str, Any], gates: config.Gates, roles: Mapping[str, str] | None = None) -> list[Miss]:
    """The gates a result misses; empty when it passes all that are set.

    AUROC gates read the smallest lower 95 % bound over the sites they speak of: held-out sites on all their data
    (`held_out_auroc_min`), training sites on their test splits (`worst_site_auroc_min`). `held_out_ece_max` reads
    the mean ECE over the held-out sites of what is registered, the calibrated model. A figure that is not available
    misses its gate.

    Args:
        summary: `summary.json`.
        gates: the bounds.
        roles: site -> role of every site that should have been measured; by default those of the summary, which
            does not know a site whose measurement failed.
    """
    sites = summary["sites"]
    roles = roles or {name: site["role"] for name, site in sites.items()}
    misses = []
    for gate, role in (("held_out_auroc_min", "held_out"), ("worst_site_auroc_min", "train")):
        bound = getattr(gates, gate)
        if bound is not None:
            figure, what = _smallest_lower_bound(sites, _named(roles, role), role)
            if figure is None or not figure >= bound:  # so that nan misses too
                misses.append(Miss(gate, bound, figure, what))
    if gates.held_out_ece_max is not None:
        held_out = _named(roles, "held_out")
        complete = held_out and all(sites.get(name, {}).get("ece") is not None for name in held_out)
        ece = summary["held_out"]["mean_ece"] if complete else None
        if ece is None or not ece <= gates.held_out_ece_max:
            misses.append(Miss("held_out_ece_max", gates.held_out_ece_max, ece, "the mean ECE of the held-out sites"))
    return misses


def _named(roles: Mapping[str, str], role: str) -> list[str]:
    return sorted(name for name, its in roles.items() if its == role)


def _smallest_lower_bound(
    sites: Mapping[str, Mapping[str, Any]], names: list[str], role: str
) -> tuple[float | None, str]:
    kind = {"held_out": "held-out", "train": "training"}[role]
    bounds: dict[str, float] = {}
    for name in names:
        interval = sites.get(name, {}).get("auroc_ci")
        if interval is None:
            return None, f"the lower 95 % bound of AUROC at the {kind} site {name}"
        bounds[name] = float(interval[0])
    if not bounds:
        return None, f"the AUROC of a {kind} site"
    worst = min(names, key=lambda name: bounds[name])
    return bounds[worst], f"the lower 95 % bound of AUROC at the {kind} site {worst}"
