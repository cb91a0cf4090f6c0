"""Figures over the sites of one role: the mean over them, and the worst of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medfl.metrics import figures
from medfl.metrics.intervals import LeastError
from medfl.metrics.measure import mean_supported
from medfl.metrics.t_intervals import logit_interval, not_narrower
from medfl.metrics.units import unit_sites, units_in


def group_figures(sites: Mapping[str, Mapping[str, Any]], role: str) -> dict[str, Any]:
    """Figures over the sites of one role; means over sites, not over patches, so that no site is averaged away.

    `mean_auroc_ci` is that of independent sites (`mean_interval`), None where a site shows nothing of its precision.

    Returns:
        {"sites", and for each figure of a group "mean_<key>", "worst_<key>", for AUROC also "mean_auroc_ci" and
        "worst_site", for one kept before calibration "mean_<key>_before" and "worst_<key>_before"}; where sites have
        figures per slide or per patient, the same of these as "slides" and "patients".
    """
    chosen = {name: entry for name, entry in sites.items() if entry["role"] == role}
    result: dict[str, Any] = {"sites": sorted(chosen)}
    for row in figures.grouped_figures():
        values = _values(chosen, row.key)
        result[f"mean_{row.key}"] = mean_supported(values.values())
        if row.key == "auroc":
            result["mean_auroc_ci"] = mean_interval([chosen[name] for name in values])
        result[f"worst_{row.key}"] = row.worst(values.values())
        if row.key == "auroc":
            result["worst_site"] = min(values, key=lambda name: values[name], default=None)
        if row.before is not None:
            before = _values(chosen, f"{row.key}_before").values()
            result |= {f"mean_{row.key}_before": mean_supported(before), f"worst_{row.key}_before": row.worst(before)}
    for key in units_in(sites):
        result[key] = group_figures(unit_sites(sites, key), role)
    return result


def held_out_figures(measured: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The `held_out` part of a summary of `local_only`, from {trained_at: {measured_at: figures}}.

    A held-out site's figure is its mean over the sites' own models: what an institution can expect that is handed the
    model of one of them. Such means have no interval here: models measured at one site share its patches.
    """
    result = group_figures(_mean_entries(measured), "held_out")
    for key in units_in({name: entry for row in measured.values() for name, entry in row.items()}):
        rows = {own: unit_sites(row, key) for own, row in measured.items()}
        result[key] = group_figures(_mean_entries(rows), "held_out")
    return result


def _mean_entries(measured: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Of every held-out site the means over the models that were measured there."""
    names = sorted({site for row in measured.values() for site, entry in row.items() if entry["role"] == "held_out"})
    keys = [row.key for row in figures.grouped_figures()]
    keys += [f"{row.key}_before" for row in figures.grouped_figures() if row.before is not None]
    return {
        name: {"role": "held_out"}
        | {key: mean_supported(row[name].get(key) for row in measured.values() if name in row) for key in keys}
        for name in names
    }


def _values(sites: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, float]:
    """Site -> figure, of the sites that have it."""
    return {name: entry[key] for name, entry in sites.items() if entry.get(key) is not None}


def mean_interval(sites: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """95 % interval of the mean AUROC of independent sites, from the `auroc`, `auroc_se`, `auroc_df` and `auroc_least`
    of each; None without sites, or where one lacks them.

    The t interval of the mean's logit: squared standard errors add up, and so do their parts of the degrees of freedom
    (Satterthwaite). A site with an AUROC of exactly 1 (or 0) stands in with the least error that its groups can show,
    for the standard error and for the lower (or upper) end; the other end is that of the mean as it is. A site that
    does not state its degrees of freedom counts as one of many groups.
    """
    centres: list[float] = []
    errors: list[tuple[float, float]] = []
    for site in sites:
        auroc, se, least = site["auroc"], site.get("auroc_se"), site.get("auroc_least")
        if se is not None:
            centres.append(auroc)
            errors.append((se, site.get("auroc_df") or math.inf))
        elif least is not None and auroc in (0.0, 1.0):
            centres.append(abs(auroc - least["error"]))
            errors.append((least["se"], least["df"]))
        else:
            return None
    if not errors:
        return None
    centre, mean = _mean(centres), _mean([site["auroc"] for site in sites])
    near, plain = (logit_interval(point, *mean_error(errors), 1.0) for point in (centre, mean))
    if near is None or plain is None:
        return None
    low, high = (near[0], plain[1]) if centre <= mean else (plain[0], near[1])
    return list(not_narrower((low, high), mean, _bound(sites)))


def _bound(sites: Sequence[Mapping[str, Any]]) -> float:
    """Lower end of the interval were all sites perfect; 1, which widens nothing, where one does not say it."""
    if not all(site.get("auroc_least") for site in sites):
        return 1.0
    least = [LeastError(**site["auroc_least"]) for site in sites]
    return LeastError(_mean([e.error for e in least]), *mean_error([(e.se, e.df) for e in least])).bound


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def mean_error(errors: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Standard error of the mean of independent values and its degrees of freedom, from those of each."""
    parts = [(se / len(errors)) ** 2 for se, _ in errors]
    total = math.fsum(parts)
    if total == 0.0:
        return 0.0, math.inf
    inverse = math.fsum((part / total) ** 2 / df for part, (_, df) in zip(parts, errors, strict=True))
    return math.sqrt(total), 1 / inverse if inverse else math.inf
