"""Figures over the sites of one role: the mean over them, and the worst of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from medfl.metrics import figures
from medfl.metrics.measure import mean_supported

Z = 1.959964
"""The 97.5 % point of the normal distribution."""


def group_figures(sites: Mapping[str, Mapping[str, Any]], role: str) -> dict[str, Any]:
    """Figures over the sites of one role; means over sites, not over patches, so that no site is averaged away.

    Sites are independent, so the standard error of their mean AUROC is the root of the sum of their squared ones over
    their number; `mean_auroc_ci` is 1.96 times that either way, None where a site has no standard error.

    Returns:
        {"sites", and for each figure of a group "mean_<key>", "worst_<key>", for AUROC also "mean_auroc_ci" and
        "worst_site", for one kept before calibration "mean_<key>_before" and "worst_<key>_before"}.
    """
    chosen = {name: entry for name, entry in sites.items() if entry["role"] == role}
    result: dict[str, Any] = {"sites": sorted(chosen)}
    for row in figures.grouped_figures():
        values = _values(chosen, row.key)
        result[f"mean_{row.key}"] = mean_supported(values.values())
        if row.key == "auroc":
            result["mean_auroc_ci"] = _mean_interval([chosen[name].get("auroc_se") for name in values], values)
        result[f"worst_{row.key}"] = row.worst(values.values())
        if row.key == "auroc":
            result["worst_site"] = min(values, key=lambda name: values[name], default=None)
        if row.before is not None:
            before = _values(chosen, f"{row.key}_before").values()
            result |= {f"mean_{row.key}_before": mean_supported(before), f"worst_{row.key}_before": row.worst(before)}
    return result


def held_out_figures(measured: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The `held_out` part of a summary of `local_only`, from {trained_at: {measured_at: figures}}.

    A held-out site's figure is its mean over the sites' own models: what an institution can expect that is handed the
    model of one of them. Such means have no interval here: models measured at one site share its patches.
    """
    names = sorted({site for row in measured.values() for site, entry in row.items() if entry["role"] == "held_out"})
    keys = [row.key for row in figures.grouped_figures()]
    keys += [f"{row.key}_before" for row in figures.grouped_figures() if row.before is not None]
    means = {
        name: {"role": "held_out"}
        | {key: mean_supported(row[name].get(key) for row in measured.values() if name in row) for key in keys}
        for name in names
    }
    return group_figures(means, "held_out")


def _values(sites: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, float]:
    """Site -> figure, of the sites that have it."""
    return {name: entry[key] for name, entry in sites.items() if entry.get(key) is not None}


def _mean_interval(errors: list[float | None], values: Mapping[str, float]) -> list[float] | None:
    """The 95 % interval of the mean of values with these standard errors; None where one lacks."""
    mean, present = mean_supported(values.values()), [error for error in errors if error is not None]
    if mean is None or len(present) != len(errors):
        return None
    half = Z * math.hypot(*present) / len(present)
    return [max(0.0, mean - half), min(1.0, mean + half)]
