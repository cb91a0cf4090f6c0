"""A study's findings as tables and sentences, the same on a terminal, in tables.md and in the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from medfl.metrics import format_figure, format_mean
from medfl.metrics.figures import Place, Style, figures_at
from medfl.metrics.stability_figures import stability_at
from medfl.plain_text import markdown as in_markdown
from medfl.study.endpoint_text import design_sentences, endpoint_sentences, endpoint_tables
from medfl.study.run_figures import figure_title
from medfl.study.statistics import ENOUGH_REPEATS
from medfl.study.study_file import ALL
from medfl.study.text_table import TextTable

WORST = ("held_out_worst_auroc", "train_worst_auroc")
NAMED = 8
"""Methods that a sentence names."""

ONE_SEED = (
    "ONE SEED: this shows what happened once. It proves nothing about the methods: another seed may turn the order "
    "round. State at least five seeds."
)


def headline(study: Mapping[str, Any]) -> list[str]:
    """The study in sentences, the warning first."""
    lines = [ONE_SEED] if study["one_seed"] else []
    if study["done"] < study["planned"]:
        lines.append(
            f"NOT FINISHED: {study['done']} of {study['planned']} runs are done; start the study again to go on."
        )
    for name, partition in study["partitions"].items():
        if name == ALL:
            continue
        means = {m: e["figures"][study["figure"]]["mean"] for m, e in partition["methods"].items()}
        means = {m: value for m, value in means.items() if value is not None}
        ends = [f"{arm} {value:.3f}" for arm, value in partition["brackets"].items() if value is not None]
        between = [m for m in means if study["methods"][m] not in (["local_only"], ["centralised"])]
        if not between:
            continue
        within = f", between {' and '.join(ends)}" if ends else ""
        title, repeats = figure_title(study["figure"]), repeats_of(partition, study["figure"], between)
        if len(between) > 1 and repeats < ENOUGH_REPEATS:
            shown = ", ".join(f"{method} {means[method]:.3f}" for method in between[:NAMED])
            more = f" and {len(between) - NAMED} more" if len(between) > NAMED else ""
            lines.append(f"{name}: {title}: {shown}{more}{within}. {too_few(repeats, study.get('unit', 'repeat'))}")
            continue
        top = max(between, key=lambda m: means[m])
        highest = "highest " if len(between) > 1 else ""
        lines.append(f"{name}: {highest}{title} with {top}, {means[top]:.3f}{within}.")
    return lines


def repeats_of(partition: Mapping[str, Any], figure: str, methods: Iterable[str]) -> int:
    """The fewest federations that one of the methods has."""
    return min((partition["methods"][method]["figures"][figure]["n"] for method in methods), default=0)


def too_few(count: int, unit: str) -> str:
    """Why nothing is said of which method is better."""
    shown = f"One {unit} says" if count == 1 else f"{count} {unit}s say"
    return f"{shown} nothing of which is better: {ENOUGH_REPEATS} distinct ones are needed."


def text_tables(study: Mapping[str, Any]) -> list[TextTable]:
    """Every table of a study."""
    shown = []
    for name, partition in study["partitions"].items():
        if not partition["methods"]:
            continue
        shown += [_results(name, partition, study), _stability(name, partition)]
        if partition["comparisons"]:
            shown.insert(-1, _comparisons(name, partition, study))
        if partition["unseen"]:
            shown.insert(-1, _unseen(name, partition))
    return shown


def markdown(study: Mapping[str, Any]) -> str:
    """tables.md."""
    parts = [f"# {in_markdown(study['name'])}", *map(in_markdown, study["description"].splitlines())]
    parts += map(in_markdown, [*design_sentences(study), *endpoint_sentences(study), *headline(study)])
    tables = [*endpoint_tables(study), *text_tables(study)]
    parts += [f"## {in_markdown(shown.title)}\n\n{shown.markdown()}" for shown in tables]
    parts += [f"Failed: {in_markdown(title)}: {in_markdown(why)}" for title, why in study["failed"].items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _results(name: str, partition: Mapping[str, Any], study: Mapping[str, Any]) -> TextTable:
    role = study["figure"].partition("_mean")[0].partition("_worst")[0]
    changes = [row for row, style in figures_at(Place.STUDY_RUNS).items() if style is Style.CHANGE]
    columns = ["method", "runs", figure_title(study["figure"]) + " [95 %]", worst_title(partition)]
    columns += [heading for row in changes for heading in (f"{row.label} before", row.label)]
    keys = [f"{role}_worst_auroc"]
    keys += [f"{role}_{key}" for row in changes for key in (f"mean_{row.key}_before", f"mean_{row.key}")]
    rows = []
    for method, entry in partition["methods"].items():
        figures, gap = entry["figures"], entry["share_of_gap"]
        means = [format_figure(figures[key]["mean"], missing="-") for key in keys]
        share = "-" if gap is None else f"{gap:.0%}"
        rows.append([method, str(entry["runs"]), _mean(figures[study["figure"]]), *means, share])
    return TextTable(f"{name}: results", [*columns, "of the gap"], rows)


def worst_title(partition: Mapping[str, Any]) -> str:
    """Of the column of the worst site: the worst of one repeat, or the mean of the worst of several."""
    several = any(entry["figures"][key]["n"] > 1 for entry in partition["methods"].values() for key in WORST)
    return "worst site, mean" if several else "worst site"


def _comparisons(name: str, partition: Mapping[str, Any], study: Mapping[str, Any]) -> TextTable:
    columns = ["method", "difference [95 %]", "pairs", "effect", "wins/ties/losses"]
    rows = [
        [
            method,
            _mean(entry["difference"], "+.3f"),
            str(entry["pairs"]),
            format_figure(entry["effect"], "+.2f", "-"),
            f"{entry['wins']}/{entry['ties']}/{entry['losses']}",
        ]
        for method, entry in partition["comparisons"].items()
    ]
    return TextTable(f"{name}: against {study['reference']}", columns, rows)


def _unseen(name: str, partition: Mapping[str, Any]) -> TextTable:
    """Over seeds where there are several; else the interval is that of the site's patches."""
    methods = list(partition["methods"])
    rows = []
    for site, by_method in partition["unseen"].items():
        shown = []
        for method in methods:
            entry = by_method.get(method)
            mean = entry and (entry["auroc"] | ({"ci": entry["ci"]} if entry["ci"] else {}))
            shown.append(_mean(mean) if mean else "-")
        rows.append([site, *shown])
    return TextTable(f"{name}: AUROC at each site when it was left out [95 %]", ["left out", *methods], rows)


def _stability(name: str, partition: Mapping[str, Any]) -> TextTable:
    stability = stability_at(Place.STUDY_RUNS)
    rows = [
        [method, *(format_figure(entry["figures"][row.key]["mean"], ".4g", "-") for row in stability)]
        for method, entry in partition["methods"].items()
    ]
    return TextTable(f"{name}: stability, means over runs", ["method", *(row.label for row in stability)], rows)


def _mean(mean: Mapping[str, Any], form: str = ".3f") -> str:
    return format_mean(mean["mean"], mean["ci"], form)
