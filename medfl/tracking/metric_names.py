"""Round records and results as MLflow metrics: the same names in every run, numbers only.

MLflow draws a section of charts for everything before a name's last stroke, in the order of the alphabet: so what has a
curve over the rounds begins with `curves/` and comes first, and what is there once comes after it.

A figure that is not available (None) or not finite is left out; MLflow never sees a stand-in for it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medfl.metrics import RATES, figures, mean_supported, round_stability
from medfl.metrics.figures import Style
from medfl.metrics.record_types import RoundRecord, SiteRecord
from medfl.metrics.subgroups import column_values, columns_in
from medfl.metrics.units import UNITS, units_in
from medfl.runs.headline import headline

Values = dict[str, float]
LONGEST = 64
"""Characters of a name that is part of a metric's name, of which MLflow takes 250."""


def site_round(entry: SiteRecord) -> Values:
    """A site's metrics in one round, from `record["sites"][name]`.

    Held-out figures while training are `monitoring/...`, a name apart from the final `test/...`: the final
    figure belongs to the selected round, which may also have been monitored.
    """
    values = measured_values("curves/val_", entry.get("val")) | measured_values("monitoring/", entry.get("test"))
    values |= _finite({"curves/train_loss": entry.get("train_loss")})
    return values | _finite({key: entry.get(key) for key in ("bytes_up", "bytes_down")})


def federation_round(record: RoundRecord) -> Values:
    """The federation's metrics in one round: means over the training sites, the worst site, stability, failures."""
    sites = [site_round(entry) for entry in record["sites"].values() if entry["role"] == "train"]
    values = _means(sites) | _worst(sites, "curves/val_auroc", "curves/val_auroc_worst_site")
    values |= {f"stability/{key}": value for key, value in round_stability(record).items()}
    values |= _finite({key: record.get(key) for key in ("virtual_seconds", "wall_seconds")})
    values |= _flat("privacy", record.get("privacy") or {})
    return values | {"failures": float(len(record["failures"]))}


def site_final(entry: Mapping[str, Any], largest_drop: float | None) -> Values:
    """A site's result on test data, from `summary["sites"][name]`: figures with their 95 % bounds, those before
    calibration, and `test/sensitivity/<target>` and `test/specificity/<target>` at the chosen thresholds."""
    values = test_values(entry) | _finite({"test/auroc_se": entry.get("auroc_se")})
    keys = [row.key for row in figures.FIGURES]
    keys += [f"{row.key}_before" for row in figures.figures_before(Style.INTERVAL)]
    for key in keys:
        values |= _interval(f"test/{key}", entry.get(key), entry.get(f"{key}_ci"))
    values |= _rates("test/", entry)
    membership = entry.get("membership") or {}
    values |= _interval("test/membership_auroc", membership.get("auroc"), membership.get("auroc_ci"))
    values |= _finite({"test/patches": entry.get("n"), "test/groups": entry.get("n_groups")})
    values |= _adapted(entry.get("adapted") or {})
    for key in units_in({"": entry}):
        values |= _per_unit(key, f"{key}/{key}", entry[key])
    for column in columns_in({"": entry}):
        for value, own in column_values(entry["subgroups"], column).items():
            prefix = f"subgroups/{plain(column)}/{plain(value)}"
            values |= _per_unit(prefix, f"{prefix}/patches", own)
    return values | _finite({"final/stability/largest_drop": largest_drop})


def _per_unit(key: str, count: str, entry: Mapping[str, Any]) -> Values:
    """`patients/<figure>`, `slides/<figure>` and `subgroups/<column>/<value>/<figure>` of a site, with their bounds and
    rates, and as `count` how many they are."""
    values = measured_values(f"{key}/", entry) | _finite({count: entry.get("n")})
    for row in figures.FIGURES:
        values |= _interval(f"{key}/{row.key}", entry.get(row.key), entry.get(f"{row.key}_ci"))
    return values | _rates(f"{key}/", entry)


def _rates(prefix: str, entry: Mapping[str, Any]) -> Values:
    """Sensitivity and specificity of every target, with their bounds."""
    values: Values = {}
    for target, point in (entry.get("operating") or {}).items():
        for rate in RATES:
            values |= _interval(f"{prefix}{rate}/{plain(target)}", point[rate], point[f"{rate}_ci"])
    return values


def _adapted(entry: Mapping[str, Any]) -> Values:
    """`adapted/<figure>` of the adapted model at a site, and `adapted/plain_<figure>` of the plain one on the same
    patches; `adapted/patients/<figure>` and so on where there are several patches of one."""
    values = _finite({"adapted/unlabelled_patches": entry.get("patches")})
    for word, measured in (("", entry.get("figures") or {}), ("plain_", entry.get("plain") or {})):
        parts = {"": measured} | {f"{key}/": measured[key] for key in units_in({"": measured})}
        for place, own in parts.items():
            for row in figures.FIGURES:
                values |= _interval(f"adapted/{place}{word}{row.key}", own.get(row.key), own.get(f"{row.key}_ci"))
    return values


def federation_final(summary: Mapping[str, Any]) -> Values:
    """The federation's result: test figures over the training sites, held-out figures, figures of all patches together,
    what validation data decided (temperature, thresholds), stability over all rounds."""
    sites = [test_values(entry) for entry in summary["sites"].values() if entry["role"] == "train"]
    stability = {k: v for k, v in (summary.get("stability") or {}).items() if k != "largest_drop_by_site"}
    values = _means(sites) | _worst(sites, "test/auroc", "test/auroc_worst_site")
    for key in (*UNITS, "subgroups"):
        values |= _flat(f"train_sites/{key}", (summary.get("train_sites") or {}).get(key) or {})
    values |= held_out(summary)
    for part in ("calibration", "temperatures", "operating", "timings"):
        values |= _flat(f"final/{part}", summary.get(part) or {})
    values |= _flat("final/privacy", summary.get("privacy") or {})
    return values | _flat("final/stability", stability)


def held_out(summary: Mapping[str, Any]) -> Values:
    """Means over the held-out sites, what is missed at the worst of them (`medfl.runs.headline`), and `pooled/...`: all
    patches of the sites of one role together."""
    over = summary["held_out"]
    pooled = {role: merged for role, merged in (summary.get("pooled") or {}).items() if merged}
    mean = _interval("held_out/mean_auroc", over["mean_auroc"], over.get("mean_auroc_ci"))
    for key in UNITS:
        if own := over.get(key):
            mean |= _interval(f"held_out/{key}/mean_auroc", own["mean_auroc"], own.get("mean_auroc_ci"))
    for column, parts in (over.get("subgroups") or {}).items():
        for value, own in parts["values"].items():
            name = f"held_out/subgroups/{plain(column)}/values/{plain(value)}/mean_auroc"
            mean |= _interval(name, own["mean_auroc"], own.get("mean_auroc_ci"))
    first = headline(summary)
    lowest = {"malignant_sensitivity": first.malignant, "recall": first.recall} if first.role == "held_out" else {}
    misses = {f"held_out/lowest_{key}": None if rate is None else rate.rate for key, rate in lowest.items()}
    adaptation = summary.get("adaptation") or {}
    values = _flat("held_out", over) | mean | _finite(misses) | _flat("pooled", pooled)
    for part, prefix in (("held_out", "adapted"), ("plain", "adapted/plain")):
        values |= _flat(prefix, adaptation.get(part) or {})
    return values


def test_values(entry: Mapping[str, Any]) -> Values:
    """`test/<figure>` of a site's result, with those before calibration."""
    keys = []
    for row in figures.figures_before():
        keys += [f"{row.key}_before", *([f"{row.key}_after"] if row.before is Style.INTERVAL else [])]
    return measured_values("test/", entry) | _finite({f"test/{key}": entry.get(key) for key in keys})


def measured_values(prefix: str, measured: Mapping[str, Any] | None) -> Values:
    """`<prefix><figure>` and `<prefix><figure>/<class>` of one dictionary of `medfl.metrics.measure`."""
    measured = measured or {}
    values = _finite({f"{prefix}{row.key}": measured.get(row.key) for row in figures.FIGURES})
    for row in figures.FIGURES:
        per_class = measured.get(f"{row.key}_per_class") or {}
        values |= _finite({f"{prefix}{row.key}/{plain(name)}": value for name, value in per_class.items()})
    return values


def plain(name: str) -> str:
    """A name as MLflow allows it in the name of a metric or parameter; one that had to be changed ends in a digest, so
    that two names never become one."""
    allowed = re.sub(r"[^\w\-. ]", "_", name, flags=re.ASCII)[:LONGEST]
    if allowed == name and name.strip("."):  # "." and ".." would be steps of a path
        return name
    return f"{allowed}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"


def _finite(values: Mapping[str, Any]) -> Values:
    """Finite numbers only. Truth values are no figures."""
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _interval(key: str, value: float | None, interval: Sequence[float] | None) -> Values:
    """A figure as `key`, its 95 % bounds as `key_low` and `key_high`."""
    low, high = interval or (None, None)
    return _finite({key: value, f"{key}_low": low, f"{key}_high": high})


def _flat(prefix: str, values: Mapping[str, Any]) -> Values:
    flat = _finite({f"{prefix}/{plain(key)}": value for key, value in values.items()})
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(f"{prefix}/{plain(key)}", value)
    return flat


def _means(sites: Iterable[Values]) -> Values:
    by_key: dict[str, list[float]] = {}
    for values in sites:
        for key, value in values.items():
            by_key.setdefault(key, []).append(value)
    return _finite({key: mean_supported(values) for key, values in by_key.items()})


def _worst(sites: Iterable[Values], key: str, name: str) -> Values:
    worst = min((values[key] for values in sites if key in values), default=None)
    return {} if worst is None else {name: worst}
