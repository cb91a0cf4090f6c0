"""Sections on the way there: class mix, learning curves, stability by round."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from markupsafe import Markup

from medfl.metrics import format_figure, mean_supported, round_stability
from medfl.metrics.figures import Place
from medfl.metrics.formatting import patch_words
from medfl.metrics.record_types import RoundRecord
from medfl.metrics.stability import bend
from medfl.metrics.stability_figures import stability_at
from medfl.report import charts
from medfl.report.chart_style import class_token
from medfl.report.charts import Line
from medfl.report.html_blocks import Picture, figures, heading, join, legend, table, text, wide
from medfl.report.html_page import PageSection
from medfl.report.run_results import Evidence, role_word

BY_ROUND = (
    ("oscillation", "Oscillation", "change of the mean AUROC, progress included"),
    ("trend_free_oscillation", "Trend-free oscillation", "of the mean AUROC around its trend"),
    ("site_spread", "Spread over sites", "deviation of AUROC"),
    ("drift", "Drift", "scatter of updates, in common steps"),
    ("coherence", "Coherence", "1: all updates agree"),
    ("update_cosine", "Update cosine", "against the round before"),
)


def class_mix(evidence: Evidence) -> PageSection | None:
    """Patches by class of every site and split."""
    pictures, words = [], patch_words(evidence.summary)
    for name in evidence.roles:
        data = evidence.run.data.get(name)
        if data is None:
            continue
        rows = [(split, [by_class.get(c, 0) for c in evidence.classes]) for split, by_class in data.patches.items()]
        finding = "; ".join(f"{split} {_counts(evidence.classes, counts)}" for split, counts in rows)
        picture = charts.bars(rows, name=f"mix {name}", finding=f"{words.capitalize()} at {name}: {finding}.")
        pictures.append(Picture(name, picture, f"{role_word(evidence.roles[name])}, {data.total():,} {words}"))
    if not pictures:
        return None
    key = [("box", class_token(index), name) for index, name in enumerate(evidence.classes)]
    lead = (
        f"{words.capitalize()} of each split by class; the total stands at the bar's end, and the scale is each site's "
        f"own."
    )
    return PageSection("class-mix", "Class mix", join(legend(key), figures(pictures)), lead)


def _counts(classes: Sequence[str], counts: Sequence[int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in zip(classes, counts, strict=True) if count) or "none"


def learning_curves(evidence: Evidence) -> PageSection | None:
    """Validation AUROC by round, a chart a site against the range of all training sites."""
    evaluated = [record for record in evidence.run.rounds if record["evaluated"]]
    curves = {name: _curve(evaluated, name) for name in evidence.roles}
    drawn = {name: curve for name, curve in curves.items() if any(value is not None for _, value in curve[1])}
    if not drawn:
        return None
    selected = evidence.summary["selected_round"]
    training = [curve for name, curve in curves.items() if evidence.roles[name] == "train"]
    lowest = min(v for _, points in drawn.values() for _, v in points if v is not None)
    limits = (max(0.0, min(0.5, math.floor(lowest * 10) / 10)), 1.02)
    backdrop = [_range([points for _, points in training])] if len(training) > 1 else []
    pictures = []
    for name, (split, points) in drawn.items():
        watched = split == "test"
        line = Line(
            [t for t, _ in points], [v for _, v in points], "before" if watched else "after", "--" if watched else "-"
        )
        at = dict(points).get(selected)
        measured = [(t, v) for t, v in points if v is not None]
        note = f"{format_figure(at)} at round {selected}" if at is not None else f"not evaluated at round {selected}"
        first, last = measured[0], measured[-1]
        finding = (
            f"{'Monitored test' if watched else 'Validation'} AUROC at {name}: {first[1]:.3f} at round {first[0]}"
            f", {last[1]:.3f} at round {last[0]}, lowest {min(v for _, v in measured):.3f}; {note}."
        )
        picture = charts.lines(
            [*backdrop, line], name=f"curve {name}", finding=finding, ylim=limits, mark=selected, level=0.5
        )
        pictures.append(
            Picture(name, picture, f"{role_word(evidence.roles[name])}{', monitoring' if watched else ''}: {note}")
        )
    key = [("line", "after", "validation AUROC of the site")]
    if any(split == "test" for split, _ in drawn.values()):
        key.append(("dash", "before", "monitoring: test data of a held-out site, no part in any choice"))
    if backdrop:
        key.append(("band", "quiet", "range over the training sites"))
    key.append(("line", "quiet", "chance (0.5)"))
    key.append(("mark", "mark", f"selected round ({selected})"))
    blind = [name for name in evidence.of_role("held_out") if name not in drawn]
    lead = "Figures at round t are of the model that enters round t; the last is the final model."
    if blind:
        lead += " Held-out sites were measured once, after the round was chosen, so they have no curve."
    return PageSection("curves", "Learning curves", join(legend(key), figures(pictures)), lead)


def _curve(records: Iterable[RoundRecord], name: str) -> tuple[str, list[tuple[int, float | None]]]:
    """("val" or "test", [(round, AUROC)]) of one site."""
    entries = [(record["round"], record["sites"].get(name)) for record in records]
    split: Literal["val", "test"] = "val" if any(entry and "val" in entry for _, entry in entries) else "test"
    return split, [(t, (entry.get(split) or {}).get("auroc") if entry else None) for t, entry in entries]


def _range(curves: Sequence[Sequence[tuple[int, float | None]]]) -> Line:
    """The band from the lowest to the highest site."""
    rounds = [t for t, _ in curves[0]]
    by_round = [[v for _, v in points if v is not None] for points in zip(*curves, strict=True)]
    low, high = [min(k, default=None) for k in by_round], [max(k, default=None) for k in by_round]
    return Line(rounds, low, "quiet", "", low, high)


def stability(evidence: Evidence) -> PageSection | None:
    """How steadily the federation learned. Its measures are over all sites, so one site's page has none."""
    if evidence.site:
        return None
    summary = evidence.summary["stability"]
    rows = [
        [row.label, row.meaning, format_figure(summary[row.key])]
        for row in stability_at(Place.REPORT)
        if summary.get(row.key) is not None
    ]
    blocks = [table(["measure", "what it is", "value"], rows, text=2)] if rows else []
    by_round = _by_round(evidence)
    pictures = [_series(by_round[key], title, note) for key, title, note in BY_ROUND if by_round[key]]
    ages = {r["round"]: [s["age"] for s in r["sites"].values() if "age" in s] for r in evidence.run.rounds}
    if any(ages.values()):
        mean = {t: mean_supported(values) for t, values in ages.items()}
        pictures.append(_series({t: v for t, v in mean.items() if v is not None}, "Age of arrivals", "mean, in merges"))
    if pictures:
        blocks.append(figures(pictures))
    inertia = _inertia(evidence)
    if inertia:
        blocks += [heading("Inertia by stage and round"), inertia]
    if evidence.summary.get("virtual_seconds") is not None:
        seconds = evidence.summary["virtual_seconds"]
        blocks.append(text(f"Virtual time: {seconds:,.0f} s, if every site had the line that its file states."))
    if not blocks:
        return None
    lead = "From validation data of the training sites and from the lengths of their updates; no test data is involved."
    return PageSection("stability", "Stability over the rounds", join(*blocks), lead)


def _by_round(evidence: Evidence) -> dict[str, dict[int, float]]:
    """Measure -> {round: value}."""
    series: dict[str, dict[int, float]] = {key: {} for key, *_ in BY_ROUND}
    means: list[float] = []
    for record in evidence.run.rounds:
        values = round_stability(record)
        if "mean_auroc" in values:
            means = [*means[-2:], values["mean_auroc"]]
            if len(means) > 1:
                series["oscillation"][record["round"]] = abs(means[-1] - means[-2])
            if len(means) == 3:
                series["trend_free_oscillation"][record["round"]] = bend(*means)
        for key in series:
            if key in values:
                series[key][record["round"]] = values[key]
    return series


def _series(values: Mapping[int, float], title: str, note: str) -> Picture:
    rounds, ys = list(values), list(values.values())
    peak = max(rounds, key=lambda t: values[t])
    finding = (
        f"{title} ({note}): {ys[0]:.3f} in round {rounds[0]}, {ys[-1]:.3f} in round {rounds[-1]}, highest "
        f"{values[peak]:.3f} in round {peak}."
    )
    lowest = min(0.0, *ys)
    room = 0.06 * (max(ys) - lowest) or 0.1
    limits = (lowest - (room if lowest < 0 else 0.0), max(0.0, *ys) + room)
    level = 0.0 if lowest < 0 else None
    picture = charts.lines(
        [Line(rounds, ys)], name=f"stability {title}", finding=finding, ylim=limits, level=level, height=170.0
    )
    return Picture(title, picture, note)


def _inertia(evidence: Evidence) -> Markup | None:
    """How much each stage of the network moved in each round."""
    updates = {record["round"]: record.get("update") for record in evidence.run.rounds}
    moved = {t: update["inertia"] for t, update in updates.items() if update and update.get("inertia")}
    if not moved:
        return None
    stages = list(dict.fromkeys(stage for values in moved.values() for stage in values))
    grid = [[values.get(stage) for values in moved.values()] for stage in stages]
    means = {s: m for s, row in zip(stages, grid, strict=True) if (m := mean_supported(row)) is not None}
    positive = [value for row in grid for value in row if value]
    if not positive:
        return None
    most, least = max(means, key=lambda s: means[s]), min(means, key=lambda s: means[s])
    note = f"from {min(positive):.2g} (faint) to {max(positive):.2g} (full), logarithmic"
    finding = (
        f"Relative change of each stage's weights by round: {most} moves most ({means[most]:.2g} a round on average), "
        f"{least} least ({means[least]:.2g})."
    )
    width = charts.WIDTH if len(moved) <= 30 else 2 * charts.WIDTH
    picture = charts.cells(stages, list(moved), grid, name="inertia", finding=finding, width=width)
    one = Picture("Relative change ‖ΔW‖ / ‖W‖", picture, note)
    return figures([one]) if width == charts.WIDTH else wide(one)
