"""Sections on what was measured: headline, per-site table, heat maps, pooled figures, other models of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from medfl.report.html_blocks import Tile, Tint, heading, heat_map, join, notes, table, text, tiles
from medfl.report.html_page import PageSection
from medfl.report.limitations import limits
from medfl.report.run_results import Evidence, arrow, figure, interval, role_word

WORST_ECE = 0.25
"""Calibration error at which a heat map's colour is full; the other columns are full where a guess would be."""


def headline(evidence: Evidence) -> PageSection:
    """The answer in four figures, and what it does not show."""
    found = _own_tiles(evidence) if evidence.site else _group_tiles(evidence)
    body = join(tiles(found), notes("What this run does not show", limits(evidence)))
    return PageSection("result", "Result", body)


def _own_tiles(evidence: Evidence) -> list[Tile]:
    entry = evidence.measured.get(str(evidence.site))
    if entry is None:
        return []
    groups = f"{entry['n_groups']} source groups"
    stages = "before → after calibration" if entry.get("ece_before") is not None else ""
    return [
        _tile("AUROC", interval(entry, "auroc"), "mean over the classes that the site has"),
        Tile("ECE", _calibration(entry, "ece_before", "ece"), note=stages),
        _tile("Balanced accuracy", interval(entry, "balanced_accuracy")),
        Tile("Test patches", f"{entry['n']:,}", note=groups),
    ]


def _group_tiles(evidence: Evidence) -> list[Tile]:
    found = []
    for key, words in (("held_out", "Held-out sites"), ("train_sites", "Training sites")):
        group = evidence.summary.get(key) or {}
        if group.get("mean_auroc") is None:
            continue
        sites = len(group["sites"])
        alone = "; mean over the sites' own models" if evidence.arm == "local_only" and key == "held_out" else ""
        found.append(_tile(f"{words}, mean AUROC", interval(group, "mean_auroc"), f"over {sites} sites{alone}"))
        if key == "train_sites" and found[0].label.startswith("Held-out"):
            continue
        found.append(_worst_tile(evidence, group, words))
        worst = f"worst {_calibration(group, 'worst_ece_before', 'worst_ece')}"
        stages = "" if group.get("mean_ece_before") is None else "before → after calibration; "
        found.append(
            Tile(f"{words}, mean ECE", _calibration(group, "mean_ece_before", "mean_ece"), note=stages + worst)
        )
    return found


def _worst_tile(evidence: Evidence, group: Mapping[str, Any], words: str) -> Tile:
    auroc = {name: evidence.measured[name]["auroc"] for name in group["sites"] if name in evidence.measured}
    known = {name: value for name, value in auroc.items() if value is not None}
    site = group.get("worst_site") or min(known, key=lambda name: known[name], default="")
    value = interval(evidence.measured[site], "auroc") if site in known else figure(group["worst_auroc"])
    return _tile(f"{words}, worst AUROC", value, site)


def _tile(label: str, value: str, note: str = "") -> Tile:
    number, _, beside = value.partition(" ")
    return Tile(label, number, beside, note)


def _calibration(entry: Mapping[str, Any], before: str, after: str) -> str:
    shown = figure(entry.get(after))
    return shown if entry.get(before) is None else arrow(figure(entry[before]), shown)


def site_table(evidence: Evidence) -> PageSection:
    """A row a site, the figures as the console prints them."""
    columns = ["site", "role", "patches", "groups", "classes", "AUROC [95 %]", "bal. acc."]
    columns += ["ECE before", "ECE after [95 %]"] if evidence.calibrated else ["ECE [95 %]"]
    columns += ["Brier", "NLL"]
    rows = [_row(name, entry, evidence.calibrated) for name, entry in evidence.measured.items()]
    roles = [entry["role"] for entry in evidence.measured.values()]
    body = table(columns, rows, text=2, break_before=_changes(roles))
    lost = [name for name in evidence.roles if name not in evidence.measured]
    if lost and evidence.arm == "local_only":
        body = join(body, text(f"Measured through the sites' models only: {', '.join(lost)}."))
    elif lost:
        body = join(body, text(f"Without figures, because the measurement failed there: {', '.join(lost)}."))
    return PageSection(
        "sites",
        "This site" if evidence.site else "Every site",
        join(body, *_other_models(evidence)),
        f"Test data, measured once, {_which(evidence)}. Intervals are 95\u00a0%, over source groups (patients, slides "
        "or tiles), never over single patches; “few groups” marks those that rest on fewer than five.",
    )


def _which(evidence: Evidence) -> str:
    if evidence.arm == "local_only":
        return f"each site's own model after round {evidence.summary['selected_round']}"
    return f"model of round {evidence.summary['selected_round']}"


def _row(name: str, entry: Mapping[str, Any], calibrated: bool) -> list[str]:
    before = [figure(entry.get("ece_before"))] if calibrated else []
    return [
        name,
        role_word(entry["role"]),
        str(entry["n"]),
        str(entry["n_groups"]),
        str(len(entry["supported_classes"])),
        interval(entry, "auroc"),
        figure(entry["balanced_accuracy"]),
        *before,
        interval(entry, "ece"),
        figure(entry["brier"]),
        figure(entry["nll"]),
    ]


def _changes(values: Sequence[Any]) -> list[int]:
    """Positions at which a value differs from the one before."""
    return [i for i in range(1, len(values)) if values[i] != values[i - 1]]


def _other_models(evidence: Evidence) -> list[Markup]:
    """Models a method keeps at its sites; with `local_only`, every model at every site."""
    blocks: list[Markup] = []
    named = {name: entry["models"] for name, entry in evidence.measured.items() if entry.get("models")}
    if named:
        kinds = sorted({kind for models in named.values() for kind in models})
        rows = [
            [name, interval(evidence.measured[name], "auroc")]
            + [interval(models[kind], "auroc") if kind in models else "-" for kind in kinds]
            for name, models in named.items()
        ]
        blocks += [heading("AUROC of each site's own models on its test data"), table(["site", "global", *kinds], rows)]
    matrix = evidence.summary.get("cross_site_auroc")
    if matrix and not evidence.site:
        places = sorted(
            {place for row in matrix.values() for place in row}, key=lambda name: (name not in matrix, name)
        )
        cells = [
            (name, [Tint(figure(row.get(place)), _depth(row.get(place), 1.0, 0.5)) for place in places])
            for name, row in sorted(matrix.items())
        ]
        blocks += [
            heading("AUROC of every site's model at every site"),
            text("Trained at (row), measured at (column); full colour is chance."),
            heat_map(["", *places], cells, caption=""),
        ]
    return blocks


def heat_maps(evidence: Evidence) -> PageSection | None:
    """Site x metric, and site x class; not on the page of one site, whose row stands in its table."""
    if evidence.site or not evidence.measured:
        return None
    classes = len(evidence.classes)
    scales = {
        "auroc": ("AUROC", 1.0, 0.5),
        "balanced_accuracy": ("bal. acc.", 1.0, 1 / classes),
        "accuracy": ("accuracy", 1.0, 1 / classes),
        "ece": ("ECE", 0.0, WORST_ECE),
        "classwise_ece": ("classwise ECE", 0.0, WORST_ECE),
        "brier": ("Brier", 0.0, 1 - 1 / classes),
        "nll": ("NLL", 0.0, math.log(classes)),
    }
    by_metric = [
        (name, [Tint(figure(entry.get(key)), _depth(entry.get(key), *ends)) for key, (_, *ends) in scales.items()])
        for name, entry in evidence.measured.items()
    ]
    by_class = [
        (name, [Tint(figure(value), _depth(value, 1.0, 0.5)) for value in _per_class(evidence, entry)])
        for name, entry in evidence.measured.items()
    ]
    body = join(
        heat_map(["site", *(words for words, *_ in scales.values())], by_metric, caption="Site by metric"),
        heat_map(["site", *evidence.classes], by_class, caption="AUROC, site by class"),
    )
    lead = (
        "The deeper the colour, the worse. No colour is perfect; full colour is what guessing would give"
        f" (for ECE, {WORST_ECE:g} or more). n/a: the site has no patches of that class, or no others."
    )
    return PageSection("heat-map", "Heat map: where it is weak", body, lead)


def _per_class(evidence: Evidence, entry: Mapping[str, Any]) -> list[float | None]:
    return [(entry.get("auroc_per_class") or {}).get(name) for name in evidence.classes]


def _depth(value: float | None, best: float, worst: float) -> float | None:
    return None if value is None else min(1.0, max(0.0, (value - best) / (worst - best)))


def pooled(evidence: Evidence) -> PageSection | None:
    """Figures of all patches of a role together; absent where the run has none."""
    given = evidence.summary.get("pooled") or {}
    parts = {role: given[role] for role in ("held_out", "train") if given.get(role)}
    if not parts or evidence.site:
        return None
    columns = ["figure", *({"held_out": "held-out sites", "train": "training sites"}[role] for role in parts)]
    rows = [["sites"] + [str(len(part["sites"])) for part in parts.values()]]
    rows.append(["patches"] + [f"{part['n']:,}" for part in parts.values()])
    rows.append(["AUROC"] + [_binned(part) for part in parts.values()])
    for name in evidence.classes:
        rows.append([f"AUROC, {name}"] + [figure(part["auroc_per_class"].get(name)) for part in parts.values()])
    rows.append(["accuracy"] + [figure(part["accuracy"]) for part in parts.values()])
    rows.append(["ECE, before → after"] + [_calibration(part, "ece_before", "ece") for part in parts.values()])
    for key, words in (("classwise_ece", "classwise ECE"), ("brier", "Brier"), ("nll", "NLL")):
        rows.append([words] + [figure(part[key]) for part in parts.values()])
    lead = (
        "All patches of a group of sites as one set, merged from counts: no score left a site. Large sites weigh more "
        "here than in the means above. There is no interval, since the counts do not say which patches belong together."
    )
    return PageSection("pooled", "Pooled figures", table(columns, rows), lead)


def _binned(part: Mapping[str, Any]) -> str:
    """The pooled AUROC, and the most by which binning can have moved it."""
    bound = part.get("auroc_resolution")
    return figure(part["auroc"]) + ("" if bound is None else f" (to within {max(bound, 1e-4):.4f})")
