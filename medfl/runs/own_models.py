"""Figures of the further models that a method keeps at each site, as every table shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medfl.metrics.figures import figure
from medfl.metrics.formatting import MISSING
from medfl.metrics.units import UNITS, unit_entry, units_shown

TITLE = "AUROC of each site's own models on its test data"


def own_model_tables(sites: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, headings, rows) of `sites` of summary.json: the global model's AUROC and that of each site's own models,
    of patches, then per slide and per patient where there are several patches of one. Nothing where no site has one."""
    models: dict[str, Mapping[str, Any]] = {
        name: entry["models"] for name, entry in sorted(sites.items()) if entry.get("models")
    }
    kinds = sorted({kind for own in models.values() for kind in own})
    headings = ["site", "global", *kinds]
    if not models:
        return []
    tables = [(TITLE, headings, _rows(sites, models, kinds, ""))]
    for key in units_shown({name: sites[name] for name in models}):
        rows = _rows(sites, models, kinds, key)
        if any(cell not in (MISSING, "-") for row in rows for cell in row[2:]):  # a run of before has none
            tables.append((f"{TITLE}, per {UNITS[key]}", headings, rows))
    return tables


def _rows(
    sites: Mapping[str, Mapping[str, Any]], models: Mapping[str, Mapping[str, Any]], kinds: Sequence[str], key: str
) -> list[list[str]]:
    auroc = figure("auroc")

    def cell(entry: Mapping[str, Any] | None) -> str:
        own = unit_entry(entry, key) if entry and key else entry
        return auroc.format_interval(own) if own else "-"

    return [[name, cell(sites[name]), *(cell(own.get(kind)) for kind in kinds)] for name, own in models.items()]
