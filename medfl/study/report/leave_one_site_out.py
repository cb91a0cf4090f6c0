"""Leave-one-site-out: AUROC at every site while it was the unseen one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from medfl.metrics import format_bounds, format_figure
from medfl.report.html_blocks import Picture, figures, heading, table, text
from medfl.study.report import study_charts
from medfl.study.report.study_charts import Dots
from medfl.study.report.study_results import StudyEvidence, Unseen

UnseenBySite = Mapping[str, Mapping[str, Unseen]]
"""Site -> method -> what the method reached there."""


def unseen_sites(evidence: StudyEvidence, name: str, partition: Mapping[str, Any]) -> list[Markup]:
    """A table, and pictures: with one method a row a site, else a picture a site with a row a method."""
    by_method = {method: evidence.unseen(name, method) for method in partition["methods"]}
    sites = list(dict.fromkeys(site for of_method in by_method.values() for site in of_method))
    results = {site: {m: of_method[site] for m, of_method in by_method.items() if site in of_method} for site in sites}
    if not results:
        return []
    if len(by_method) == 1:
        (only,) = by_method
        rows = [_dots(site, methods[only]) for site, methods in results.items()]
        pictures = [_picture(only, rows, f"every site as the unseen one, {only}", name, study_charts.span_of(rows))]
    else:
        by_site = {
            site: [_dots(method, unseen, evidence.is_bracket(method)) for method, unseen in methods.items()]
            for site, methods in results.items()
        }
        span = study_charts.span_of([row for rows in by_site.values() for row in rows])
        pictures = [_picture(site, rows, f"{site} as the unseen site", name, span) for site, rows in by_site.items()]
    return [
        heading("Unseen sites, one by one"),
        text(_said(evidence)),
        figures(pictures),
        _table(evidence, results),
    ]


def _said(evidence: StudyEvidence) -> str:
    said = "Each site in turn had no part in training. "
    if len(evidence.seeds) > 1:
        said += (
            "Thick lines are intervals over seeds: they say nothing of other patients of the site. Thin lines do: "
            "from the lowest to the highest end of the seeds' 95\u00a0% intervals over its source groups, a bit wide."
        )
    else:
        said += "Intervals are over its source groups."
    if any("local_only" in chain for chain in evidence.methods.values()):
        said += " local_only is the mean over the other sites' own models, and has no interval."
    return said


def _table(evidence: StudyEvidence, results: UnseenBySite) -> Markup:
    compared = any(evidence.reference in methods and len(methods) > 1 for methods in results.values())
    several = len(evidence.seeds) > 1
    columns = ["unseen site", "method", "seeds", "groups", "AUROC [95 %]"]
    columns += ["over groups [95 %]"] if several else []
    columns += [f"minus {evidence.reference}, mean"] if compared else []
    rows: list[list[str]] = []
    starts = []
    for site, methods in results.items():
        starts.append(len(rows))
        for method, unseen in methods.items():
            groups = "-" if unseen.groups is None else str(unseen.groups)
            row = [
                site,
                method,
                str(len(unseen.auroc)),
                groups,
                f"{format_figure(unseen.mean)} {format_bounds(unseen.ci)}",
            ]
            row += [format_bounds(unseen.envelope)] if several else []
            rows.append([*row, _moved(unseen, methods.get(evidence.reference))] if compared else row)
    return table(columns, rows, text=2, break_before=starts[1:] if compared else ())


def _picture(title: str, rows: list[Dots], about: str, name: str, span: tuple[float, float]) -> Picture:
    means = "; ".join(f"{row.label} {row.beside} {format_bounds(row.ends)}" for row in rows)
    finding = f"AUROC with {about} in {name}: {means}."
    xlabel = "AUROC at the unseen site"
    picture = study_charts.dots(rows, name=f"unseen {title} {name}", finding=finding, xlabel=xlabel, span=span)
    return Picture(title, picture)


def _dots(label: str, unseen: Unseen, minor: bool = False) -> Dots:
    several = len(unseen.auroc) > 1
    points = list(unseen.auroc.values()) if several else []
    outer = unseen.envelope if several else None
    return Dots(label, unseen.mean, unseen.ci, points, format_figure(unseen.mean), minor, outer)


def _moved(unseen: Unseen, reference: Unseen | None) -> str:
    """Mean difference over the seeds that both have."""
    if reference is None or reference is unseen:
        return "-"
    moved = [value - reference.auroc[seed] for seed, value in unseen.auroc.items() if seed in reference.auroc]
    return format_figure(math.fsum(moved) / len(moved) if moved else None, "+.3f")
