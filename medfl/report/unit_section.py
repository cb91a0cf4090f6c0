"""The section on figures per slide and per patient, beside those per patch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from medfl.metrics import RATES, format_figure, format_interval
from medfl.metrics.formatting import format_count, patch_words
from medfl.metrics.units import SHOWN, UNITS, shown_points, unit_notes, unit_sites, units_shown
from medfl.report.html_blocks import heading, join, table, text
from medfl.report.html_page import PageSection
from medfl.report.results_sections import figure_columns
from medfl.report.run_results import Evidence, role_word


def per_unit(evidence: Evidence) -> PageSection | None:
    """A table of the sites and one of their operating points, per slide and per patient; absent where each patch is a
    patient of its own."""
    keys = units_shown(evidence.measured)
    if not keys:
        return None
    scored = evidence.pipeline.get("evaluation", {}).get("patients", "mean")
    words = patch_words(evidence.summary)
    how = f"of all its {words}"
    if isinstance(scored, Mapping):
        how = f"of the {scored['top']} of its {words} that look most malignant"
    lead = (
        f"A slide or patient counts once. Its probabilities are the mean {how}; its class is that of its {words}, and "
        f"where these differ that of the malignant ones. Intervals are 95\u00a0%, over patients."
    )
    blocks = [block for key in keys for block in _blocks(evidence, key)]
    return PageSection("patients", " and ".join(f"per {UNITS[key]}" for key in keys).capitalize(), join(*blocks), lead)


def _blocks(evidence: Evidence, key: str) -> list[Markup]:
    sites, columns = unit_sites(evidence.measured, key), figure_columns(evidence.calibrated, SHOWN)
    counted = [key] if key == "patients" else [key, "patients"]
    rows = [
        [name, role_word(entry["role"]), *map(str, (entry["n"], entry["n_groups"])[: len(counted)])]
        + [cell(entry) for _, cell in columns]
        for name, entry in sites.items()
    ]
    blocks = [
        heading(f"Per {UNITS[key]}"),
        table(["site", "role", *counted, *(name for name, _ in columns)], rows, text=2),
    ]
    if points := _points(sites):
        headings = ["site", "target", "threshold", "positive", "negative", *(f"{rate} [95 %]" for rate in RATES)]
        blocks += [text("At thresholds from validation data:"), table(headings, points, text=2)]
    return [*blocks, *(text(f"{note}.") for note in unit_notes(evidence.measured, key))]


def _points(sites: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A row for each target that has a threshold, at held-out sites; without any, at training sites."""
    roles = {entry["role"] for entry in sites.values()}
    role = "held_out" if "held_out" in roles else "train"
    return [
        [name, target, format_figure(point["threshold"]), *(format_count(point[s]) for s in ("positives", "negatives"))]
        + [format_interval(point[rate], point[f"{rate}_ci"]) for rate in RATES]
        for name, entry in sites.items()
        for target, point in shown_points(entry).items()
        if entry["role"] == role and point["threshold"] is not None
    ]
