"""How a partition's methods got there: learning curves over rounds and virtual time, stability, bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from medfl.metrics import format_figure, format_mean
from medfl.report.html_blocks import Picture, figures, folded, heading, legend, table, text
from medfl.study.report import study_charts
from medfl.study.report.curve_table import Course
from medfl.study.report.study_charts import Dots
from medfl.study.report.study_results import StudyEvidence

MEASURES = (
    ("oscillation", "Oscillation", "mean change of validation AUROC by round, late in training, progress included"),
    ("drift", "Drift", "scatter of the sites' updates, in units of the common step"),
    ("coherence", "Coherence", "share of the updates that does not cancel; 1 when all agree"),
    ("accumulated_variance", "Accumulated variance", "scatter summed over rounds, in units of the squared steps"),
    ("trend_free_oscillation", "Trend-free oscillation", "the same around its trend: steady progress is none"),
    ("rounds_to_target", "Rounds to target", "of the repeats that reached it, and how many did"),
)
WIDE_RANGE = 50.0
"""Largest over smallest value from which a scale is logarithmic."""


def learning_curves(evidence: StudyEvidence, name: str, partition: Mapping[str, Any]) -> list[Markup]:
    """Small learning curves, over rounds, and over virtual time where there is one."""
    seeds = max(len(evidence.by_repeat(name, method, evidence.figure)) for method in partition["methods"])
    same = f"{evidence.reference}, the same seeds" if seeds > 1 else evidence.reference
    key = [("line", "after", "mean over seeds" if seeds > 1 else "the one seed"), ("line", "quiet", same)]
    if seeds > 1:
        key.insert(1, ("band", "after", "lowest to highest seed"))
    by_round = {method: evidence.curves.by_round(name, method) for method in partition["methods"]}
    by_time = {method: evidence.curves.by_time(name, method) for method in partition["methods"]}
    blocks = []
    for title, xlabel, courses, steps in (
        ("Learning curves", "round", by_round, False),
        ("Learning curves over virtual time", "virtual seconds", by_time, True),
    ):
        present = {method: course for method, course in courses.items() if course}
        if present:
            drawn = _panels(evidence, name, title, xlabel, present)
            blocks += [heading(title), text(_said(evidence, steps)), legend(key), figures(drawn, small=True)]
    return blocks


def _said(evidence: StudyEvidence, steps: bool) -> str:
    if steps:
        return (
            "What a seed's newest measured model reached by that moment, up to the end of the shortest run; moments "
            "follow from the lines that the sites state."
        )
    said = "Validation AUROC, mean over training sites, of the model that enters the round; no test data is involved."
    if any("local_only" in chain for chain in evidence.methods.values()):
        said += " With local_only it is each site's own model on its own data, an easier task."
    return said


def _panels(
    evidence: StudyEvidence, name: str, title: str, xlabel: str, courses: Mapping[str, Course]
) -> list[Picture]:
    steps = xlabel != "round"
    read = evidence.curves.by_time if steps else evidence.curves.by_round
    xs = [x for course in courses.values() for x in course.x]
    lowest = min(min(course.low) for course in courses.values())
    highest = max(max(course.high) for course in courses.values())
    floor = math.floor(lowest * 20) / 20
    panels = []
    for method, course in courses.items():
        other = None if method == evidence.reference else read(name, evidence.reference, course.seeds)
        end = f"{course.x[-1]:,.0f} s" if steps else f"round {course.x[-1]:.0f}"
        note = f"{course.mean[-1]:.3f} at {end}"
        spread = f", seeds from {course.low[-1]:.3f} to {course.high[-1]:.3f}" if len(course.seeds) > 1 else ""
        beside = "" if other is None else f" {evidence.reference} ends at {other.mean[-1]:.3f}."
        picture = study_charts.panel(
            (course.x, course.mean, course.low, course.high),
            (other.x, other.mean) if other else None,
            name=f"{title} {name} {method}",
            finding=f"{title} {name}, {method}: {course.mean[0]:.3f} at the start, {note}{spread}.{beside}",
            xlabel=xlabel,
            xlim=(min(xs), max(xs)),
            ylim=(floor, min(1.005, highest + 0.05 * (highest - floor) + 0.002)),
            steps=steps,
        )
        panels.append(Picture(method, picture, note))
    return panels


def steadiness(evidence: StudyEvidence, name: str, partition: Mapping[str, Any]) -> list[Markup]:
    """Measures of stability by method, their differences to the reference, and what was sent."""
    blocks = [figures(_pictures(evidence, name, partition))]
    if partition["comparisons"] and len(evidence.seeds) > 1:
        blocks.append(_differences(evidence, partition))
    return [*blocks, _cost(partition)]


def _pictures(evidence: StudyEvidence, name: str, partition: Mapping[str, Any]) -> list[Picture]:
    """A picture a measure, a row a method."""
    pictures = []
    for column, title, note in MEASURES:
        rows = []
        for method, entry in partition["methods"].items():
            mean = entry["figures"][column]["mean"]
            points = evidence.values(name, method, column)
            words = format_figure(mean, ".3g", "-")
            if column == "rounds_to_target":
                reached = evidence.by_repeat(name, method, column).values()
                words = f"{sum(value is not None for value in reached)} of {len(reached)}"
            shown = points if len(points) > 1 else []
            rows.append(Dots(method, mean, None, shown, words, evidence.is_bracket(method)))
        values = [value for row in rows for value in (*row.points, *([row.mean] if row.mean is not None else []))]
        if not values:
            continue
        log = min(values) > 0 and max(values) / min(values) > WIDE_RANGE
        means = "; ".join(f"{row.label} {row.beside}" for row in rows if row.mean is not None)
        picture = study_charts.dots(
            rows,
            name=f"stability {column} {name}",
            finding=f"{title} by method in {name} ({note}), mean over runs: {means}.",
            xlabel=f"{title.lower()}, logarithmic" if log else title.lower(),
            log=log,
            zero=True,
        )
        pictures.append(Picture(title, picture, note))
    return pictures


def _differences(evidence: StudyEvidence, partition: Mapping[str, Any]) -> Markup:
    measures = [column for column, *_ in MEASURES[:-1]]
    columns = ["method", *(f"{title.lower()} [95 %]" for _, title, _ in MEASURES[:-1])]
    rows = [
        [
            method,
            *(
                format_mean(entry["figures"][column]["mean"], entry["figures"][column]["ci"], "+.3g")
                for column in measures
            ),
        ]
        for method, entry in partition["comparisons"].items()
    ]
    return folded(f"Stability: differences to {evidence.reference}, paired by federation", table(columns, rows))


def _cost(partition: Mapping[str, Any]) -> Markup:
    """What was sent, and how long it would have taken."""
    rows = [
        [
            method,
            *(
                format_figure(entry["figures"][column]["mean"], ",.1f", "-")
                for column in ("megabytes", "virtual_seconds")
            ),
        ]
        for method, entry in partition["methods"].items()
    ]
    return folded("Sent and waited for, means over runs", table(["method", "megabytes", "virtual seconds"], rows))
