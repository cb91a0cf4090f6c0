"""Sections on what was measured: headline, per-site table, heat maps, pooled figures, other models of the run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from medfl.metrics import format_figure, format_interval
from medfl.metrics.figures import WORST_ECE, Place, Style, figure, figures_at
from medfl.metrics.formatting import MISSING, format_about, patch_words
from medfl.metrics.site_signature import signature_sentence
from medfl.metrics.units import UNITS, units_shown
from medfl.report.html_blocks import Tile, Tint, finding, heading, heat_map, join, notes, table, text, tiles
from medfl.report.html_page import PageSection
from medfl.report.limitations import limits
from medfl.report.run_results import Evidence, arrow, interval, role_word
from medfl.runs.adapted_figures import TITLE, adaptation_sentences, adapted_tables
from medfl.runs.headline import RunHeadline
from medfl.runs.own_models import own_model_tables

Cell = Callable[[Mapping[str, Any]], str]


def result(evidence: Evidence) -> PageSection:
    """What the model misses, in a sentence and a few figures, and what they do not show."""
    first = evidence.headline
    figures = _own_tiles(evidence) if evidence.site else _group_tiles(evidence)
    figures = [*_clinical_tiles(first), *figures, *_registry_tiles(first)]
    body = join(finding(first.sentence), tiles(figures), notes("What this run does not show", limits(evidence)))
    return PageSection("result", "Result", body)


def _clinical_tiles(first: RunHeadline) -> list[Tile]:
    """Sensitivity for malignant and the recall of the worst class, each with its site and its patches."""
    clinical: list[Tile] = []
    rate, recall = first.malignant, first.recall
    if rate is not None:
        overall = first.malignant_overall or rate
        over = f"; all sites {format_figure(overall.rate)}, {overall.hits} of {overall.patches}"
        place = f"{rate.site}, {rate.hits} of {rate.patches}{over if first.sites > 1 else ''}"
        aim = f"; threshold {format_figure(first.threshold)}"
        shown = format_interval(rate.rate, rate.ci)
        clinical.append(_tile(f"Sensitivity for malignant{_lowest(first)}", shown, place + aim))
    elif first.has_malignant:
        clinical.append(Tile("Sensitivity for malignant", MISSING, note="no threshold, or few patients"))
    if recall is not None:
        whole = first.recall_overall or recall
        over = f"; all sites {whole.label} {format_figure(whole.rate)}, {whole.hits} of {whole.patches}"
        place = f"{recall.site}, {recall.hits} of {recall.patches} named so{over if first.sites > 1 else ''}"
        clinical.append(Tile("Recall, worst class", format_figure(recall.rate), recall.label, place))
    return clinical


def _lowest(first: RunHeadline) -> str:
    return ", lowest" if first.sites > 1 else ""


def _registry_tiles(first: RunHeadline) -> list[Tile]:
    """What the gates say, and the model's name in the registry."""
    word = "none" if not first.gates_stated else "passed" if first.gates_passed else "missed"
    reasons = [str(gate) for gate in first.gates or () if not gate.passed]
    note = "nothing was asked of this model" if not first.gates_stated else "; ".join(reasons)
    return [
        Tile("Gates", word, note=note),
        Tile("Registry", "registered" if first.registered else "-", note=first.place),
    ]


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
        Tile(f"Test {patch_words(evidence.summary)}", f"{entry['n']:,}", note=groups),
    ]


def _group_tiles(evidence: Evidence) -> list[Tile]:
    group_tiles: list[Tile] = []
    for key, words in (("held_out", "Held-out sites"), ("train_sites", "Training sites")):
        group = evidence.summary.get(key) or {}
        if group.get("mean_auroc") is None:
            continue
        sites = len(group["sites"])
        alone = "; mean over the sites' own models" if evidence.arm == "local_only" and key == "held_out" else ""
        group_tiles.append(
            _tile(
                f"{words}, mean AUROC",
                interval(group, "mean_auroc"),
                f"over {sites} {'site' if sites == 1 else 'sites'}{alone}",
            )
        )
        if key == "train_sites" and group_tiles[0].label.startswith("Held-out"):
            continue
        group_tiles.append(_worst_tile(evidence, group, words))
        worst = f"worst {_calibration(group, 'worst_ece_before', 'worst_ece')}"
        stages = "" if group.get("mean_ece_before") is None else "before → after calibration; "
        noise = group.get("mean_ece_noise")
        floor = "" if noise is None else f"; noise alone {format_figure(noise)}"
        group_tiles.append(
            Tile(f"{words}, mean ECE", _calibration(group, "mean_ece_before", "mean_ece"), note=stages + worst + floor)
        )
    return group_tiles


def _worst_tile(evidence: Evidence, group: Mapping[str, Any], words: str) -> Tile:
    auroc = {name: evidence.measured[name]["auroc"] for name in group["sites"] if name in evidence.measured}
    present = {name: value for name, value in auroc.items() if value is not None}
    site = group.get("worst_site") or min(present, key=lambda name: present[name], default="")
    value = interval(evidence.measured[site], "auroc") if site in present else format_figure(group["worst_auroc"])
    return _tile(f"{words}, worst AUROC", value, site)


def _tile(label: str, value: str, note: str = "") -> Tile:
    number, _, beside = value.partition(" ")
    return Tile(label, number, beside, note)


def _calibration(entry: Mapping[str, Any], before: str, after: str) -> str:
    shown = format_figure(entry.get(after))
    return shown if entry.get(before) is None else arrow(format_figure(entry[before]), shown)


def site_table(evidence: Evidence) -> PageSection:
    """A row a site, the figures as the console prints them."""
    columns = figure_columns(evidence.calibrated)
    headings = [
        "site",
        "role",
        patch_words(evidence.summary),
        "groups",
        "classes",
        *(heading for heading, _ in columns),
    ]
    rows = [[*_site_cells(n, entry), *(cell(entry) for _, cell in columns)] for n, entry in evidence.measured.items()]
    roles = [entry["role"] for entry in evidence.measured.values()]
    body = table(headings, rows, text=2, break_before=_changes(roles))
    lost = [name for name in evidence.roles if name not in evidence.measured]
    if lost and evidence.arm == "local_only":
        body = join(body, text(f"Measured through the sites' models only: {', '.join(lost)}."))
    elif lost:
        body = join(body, text(f"Without figures, because the measurement failed there: {', '.join(lost)}."))
    if (signature := evidence.summary.get("site_signature")) and not evidence.site:
        body = join(body, text(f"{signature_sentence(signature)}."))
    return PageSection(
        "sites",
        "This site" if evidence.site else "Every site",
        join(body, *_other_models(evidence)),
        f"Test data, measured once, {_which(evidence)}. Intervals are 95\u00a0%, over source groups (patients, slides "
        "or tiles), never over single patches; “too few groups” marks those that rest on fewer than ten on a side.",
    )


def _which(evidence: Evidence) -> str:
    if evidence.arm == "local_only":
        return f"each site's own model after round {evidence.summary['selected_round']}"
    return f"model of round {evidence.summary['selected_round']}"


def figure_columns(calibrated: bool, shown: Collection[str] = ()) -> list[tuple[str, Cell]]:
    """(heading, cell of a site) for every figure of the table, or for those `shown`."""
    columns: list[tuple[str, Cell]] = []
    for row, style in figures_at(Place.REPORT).items():
        if shown and row.key not in shown:
            continue
        if style is Style.VALUE:
            columns.append((row.heading, row.format))
        elif style is Style.CHANGE and calibrated:
            columns.append((f"{row.heading} before", row.format_before))
            columns.append((f"{row.heading} after [95 %]", row.format_interval))
        else:
            columns.append((f"{row.heading} [95 %]", row.format_interval))
    return columns


def _site_cells(name: str, entry: Mapping[str, Any]) -> list[str]:
    counts = (entry["n"], entry["n_groups"], len(entry["supported_classes"]))
    return [name, role_word(entry["role"]), *map(str, counts)]


def _changes(values: Sequence[Any]) -> list[int]:
    """Positions at which a value differs from the one before."""
    return [i for i in range(1, len(values)) if values[i] != values[i - 1]]


def _other_models(evidence: Evidence) -> list[Markup]:
    """Models a method keeps at its sites; with `local_only`, every model at every site."""
    blocks: list[Markup] = []
    for title, headings, rows in own_model_tables(evidence.measured):
        blocks += [heading(title), table(headings, rows)]
    if evidence.summary.get("cross_site_auroc") and not evidence.site:
        blocks += _cross_sites(evidence.summary["cross_site_auroc"], len(evidence.classes))
    return blocks


def _cross_sites(matrix: Mapping[str, Mapping[str, float | None]], classes: int) -> list[Markup]:
    """AUROC of every site's model at every site, as a heat map."""
    auroc = figure("auroc")
    places = sorted({place for row in matrix.values() for place in row}, key=lambda name: (name not in matrix, name))
    cells = [
        (name, [Tint(format_figure(row.get(place)), auroc.depth(row.get(place), classes)) for place in places])
        for name, row in sorted(matrix.items())
    ]
    return [
        heading("AUROC of every site's model at every site"),
        text("Trained at (row), measured at (column); full colour is chance."),
        heat_map(["", *places], cells, caption=""),
    ]


def heat_maps(evidence: Evidence) -> PageSection | None:
    """Site x metric, and site x class; not on the page of one site, whose row stands in its table."""
    if evidence.site or not evidence.measured:
        return None
    rows, classes, auroc = list(figures_at(Place.HEAT_MAP)), len(evidence.classes), figure("auroc")
    by_metric = [
        (name, [Tint(row.format(entry), row.depth(row.of(entry), classes)) for row in rows])
        for name, entry in evidence.measured.items()
    ]
    by_class = [
        (name, [Tint(format_figure(value), auroc.depth(value, classes)) for value in _per_class(evidence, entry)])
        for name, entry in evidence.measured.items()
    ]
    body = join(
        heat_map(["site", *(row.heading for row in rows)], by_metric, caption="Site by metric"),
        heat_map(["site", *evidence.classes], by_class, caption="AUROC, site by class"),
    )
    lead = (
        "The deeper the colour, the worse. No colour is perfect; full colour is what guessing would give"
        f" (for ECE, {WORST_ECE:g} or more). n/a: the site has no patches of that class, or no others."
    )
    return PageSection("heat-map", "Heat map: where it is weak", body, lead)


def _per_class(evidence: Evidence, entry: Mapping[str, Any]) -> list[float | None]:
    return [(entry.get("auroc_per_class") or {}).get(name) for name in evidence.classes]


def adapted(evidence: Evidence) -> PageSection | None:
    """Figures of the adapted model beside the plain ones; absent where the run does not adapt."""
    tables = adapted_tables(evidence.measured)
    if not tables:
        return None
    blocks = [table(headings, rows, text=3) for _, headings, rows in tables[:1]]
    for title, headings, rows in tables[1:]:
        blocks += [heading(title), table(headings, rows, text=3)]
    sentences = adaptation_sentences(evidence.summary) if not evidence.site else []
    lead = (
        "The plain figures are those of the same patches: half of a site's source groups, none adapted on. "
        "What the run reached, and what its gates read unless they say otherwise, stands in the sections above."
    )
    return PageSection("adapted", TITLE, join(*blocks, *map(text, sentences)), lead)


def pooled(evidence: Evidence) -> PageSection | None:
    """Figures of all patches of a role together; absent where the run has none."""
    merged = evidence.summary.get("pooled") or {}
    parts = {role: merged[role] for role in ("held_out", "train") if merged.get(role)}
    if not parts or evidence.site:
        return None
    blocks = [_pooled_table(evidence, parts, patch_words(evidence.summary))]
    for key in units_shown(evidence.measured):
        if own := {role: part[key] for role, part in parts.items() if part.get(key)}:
            blocks += [heading(f"Per {UNITS[key]}"), _pooled_table(evidence, own, key)]
    lead = (
        f"All {patch_words(evidence.summary)} of a group of sites as one set, merged from counts: no score left a "
        "site. Large sites weigh more here than in the means above. There is no interval, since the counts do not say "
        "which belong together."
    )
    return PageSection("pooled", "Pooled figures", join(*blocks), lead)


def _pooled_table(evidence: Evidence, parts: Mapping[str, Mapping[str, Any]], words: str) -> Markup:
    """A column for each role; `words` is what is counted."""
    columns = ["figure", *({"held_out": "held-out sites", "train": "training sites"}[role] for role in parts)]
    rows = [["sites"] + [str(len(part["sites"])) for part in parts.values()]]
    rows.append([words] + [f"{part['n']:,}" for part in parts.values()])
    for row, style in figures_at(Place.POOLED).items():
        if row.key == "auroc":
            rows.append([row.label] + [_binned(part) for part in parts.values()])
        elif style is Style.CHANGE:
            changes = (_calibration(part, f"{row.key}_before", row.key) for part in parts.values())
            rows.append([f"{row.label}, before → after", *changes])
        else:
            rows.append([row.label] + [row.format(part) for part in parts.values()])
        for name in evidence.classes if row.per_class is not None else ():
            values = (part[f"{row.key}_per_class"].get(name) for part in parts.values())
            rows.append([f"{row.label}, {name}", *map(format_figure, values)])
    return table(columns, rows)


def _binned(part: Mapping[str, Any]) -> str:
    """The pooled AUROC, and the most by which binning can have moved it; unknown where cells were pooled."""
    bound = part.get("auroc_resolution")
    if bound is None:
        return format_about(part["auroc"])
    return f"{format_figure(part['auroc'])} (to within {max(bound, 1e-4):.4f})"
