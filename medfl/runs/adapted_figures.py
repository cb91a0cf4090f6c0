"""Figures of the adapted model beside those of the plain one, as every table shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medfl.metrics.figures import figure
from medfl.metrics.formatting import format_figure
from medfl.metrics.remedies import PLAIN, left_out, name_of
from medfl.metrics.units import UNITS, unit_entry, units_shown

TITLE = "Adapted at sites that never trained"
HEADINGS = ("site", "remedy", "adapted on", "judged on (groups)", "AUROC plain", "AUROC adapted [95 %]")
CHANGES = ("ece", "nll")


def adapted_tables(sites: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, headings, rows) of `sites` of summary.json, a row for each site that was adapted: of patches, then per
    slide and per patient where there are several patches of one. Nothing where none was adapted."""
    adapted = {name: entry["adapted"] for name, entry in sites.items() if "adapted" in entry}
    if not adapted:
        return []
    tables = [(TITLE, *_table(adapted))]
    for key in units_shown({name: entry["figures"] for name, entry in adapted.items()}):
        own = {
            name: {**entry, **{part: unit_entry(entry[part], key) for part in ("figures", "plain")}}
            for name, entry in adapted.items()
        }
        own = {name: entry for name, entry in own.items() if entry["figures"] and entry["plain"]}
        tables.append((f"{TITLE}, per {UNITS[key]}", *_table(own)))
    return tables


def _table(sites: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each site, of its `adapted`."""
    auroc, changes = figure("auroc"), [figure(key) for key in CHANGES]
    headings = [*HEADINGS, *(f"{row.label} {when}" for row in changes for when in ("plain", "adapted"))]
    rows = []
    for name, adapted in sorted(sites.items()):
        after, before = adapted["figures"], adapted["plain"]
        cells = [name, name_of(adapted["steps"]), f"{adapted['patches']} unlabelled patches"]
        cells += [f"{after['n']} ({after['n_groups']})", auroc.format(before), auroc.format_interval(after)]
        rows.append(cells + [row.format(figures) for row in changes for figures in (before, after)])
    return headings, rows


def adaptation_sentences(summary: Mapping[str, Any]) -> list[str]:
    """What was done, where a step was left out, and what it came to; nothing of a run that does not adapt."""
    adaptation = summary.get("adaptation")
    if not adaptation:
        return []
    remedy = adaptation["remedy"]
    chosen = _chosen(adaptation) if adaptation["auto"] else "stated beforehand"
    said = [f"Remedy {remedy} ({chosen}): adapted on some source groups of a site without labels, judged on the others"]
    for name, entry in sorted(summary["sites"].items()):
        said += [f"{name}: {reason}" for reason in left_out(entry["adapted"])] if "adapted" in entry else []
    after, before = adaptation["held_out"], adaptation["plain"]
    if after["sites"] and remedy != PLAIN:
        changes = (
            f"mean {label} {format_figure(before.get(key))} plain, {format_figure(after.get(key))} adapted"
            for label, key in (("AUROC", "mean_auroc"), ("ECE", "mean_ece"))
        )
        said.append(f"On the same patches of {len(after['sites'])} sites: {'; '.join(changes)}")
    said += [f"{failure['site']} was not adapted: {failure['reason']}" for failure in adaptation["failures"]]
    return said


def _chosen(adaptation: Mapping[str, Any]) -> str:
    """How `auto` came to its choice."""
    trials = adaptation["trials"]
    shown = ", ".join(
        f"{name} {trial['nll']:.3f}"
        for name, trial in sorted(trials.items(), key=lambda item: item[1]["nll"] or 0.0)
        if trial["nll"] is not None
    )
    sites = max((trial["sites"] for trial in trials.values()), default=0)
    if not shown:
        return "nothing could be tried on validation data"
    return f"chosen on validation data of {sites} training sites as random laboratories would show them, NLL {shown}"
