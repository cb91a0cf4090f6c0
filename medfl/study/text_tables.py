"""A study's findings as tables and sentences, the same on a terminal, in tables.md and in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfl.study.study_file import ALL
from medfl.study.study_tables import STABILITY

TITLES = {
    "held_out_mean_auroc": "mean AUROC at held-out sites",
    "held_out_worst_auroc": "AUROC at the worst held-out site",
    "train_mean_auroc": "mean AUROC at training sites",
    "train_worst_auroc": "AUROC at the worst training site",
}
ONE_SEED = (
    "ONE SEED: this shows what happened once. It proves nothing about the methods: another seed may turn the order "
    "round. State at least three seeds, better five."
)


@dataclass(frozen=True)
class Shown:
    """One table: the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def headline(found: Mapping[str, Any]) -> list[str]:
    """The study in sentences, the warning first."""
    lines = [ONE_SEED] if found["one_seed"] else []
    if found["done"] < found["planned"]:
        lines.append(
            f"NOT FINISHED: {found['done']} of {found['planned']} runs are done; start the study again to go on."
        )
    for name, partition in found["partitions"].items():
        if name == ALL:
            continue
        best = {m: e["figures"][found["figure"]]["mean"] for m, e in partition["methods"].items()}
        known = {m: value for m, value in best.items() if value is not None}
        ends = [f"{arm} {value:.3f}" for arm, value in partition["brackets"].items() if value is not None]
        between = [m for m in known if found["methods"][m] not in (["local_only"], ["centralised"])]
        if between:
            top = max(between, key=lambda m: known[m])
            within = f", between {' and '.join(ends)}" if ends else ""
            highest = "highest " if len(between) > 1 else ""
            lines.append(f"{name}: {highest}{TITLES[found['figure']]} with {top}, {known[top]:.3f}{within}.")
    return lines


def tables(found: Mapping[str, Any]) -> list[Shown]:
    """Every table of a study."""
    shown = []
    for name, partition in found["partitions"].items():
        if not partition["methods"]:
            continue
        shown += [_results(name, partition, found), _stability(name, partition)]
        if partition["comparisons"]:
            shown.insert(-1, _comparisons(name, partition, found))
        if partition["unseen"]:
            shown.insert(-1, _unseen(name, partition))
    return shown


def markdown(found: Mapping[str, Any]) -> str:
    """tables.md."""
    parts = [f"# {found['name']}", found["description"], *headline(found)]
    parts += [f"## {shown.title}\n\n{markdown_table(shown)}" for shown in tables(found)]
    parts += [f"Failed: {title}: {why}" for title, why in found["failed"].items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(shown: Shown) -> str:
    """One table in Markdown."""
    align = ["---", *["--:"] * (len(shown.columns) - 1)]
    lines = [shown.columns, align, *shown.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _results(name: str, partition: Mapping[str, Any], found: Mapping[str, Any]) -> Shown:
    columns = ["method", "runs", TITLES[found["figure"]] + " [95 %]", "worst", "ECE before", "ECE", "of the gap"]
    role = found["figure"].partition("_mean")[0].partition("_worst")[0]
    rows = []
    for method, entry in partition["methods"].items():
        figures = entry["figures"]
        gap = entry["share_of_gap"]
        rows.append(
            [
                method,
                str(entry["runs"]),
                _mean(figures[found["figure"]]),
                _number(figures[f"{role}_worst_auroc"]["mean"]),
                _number(figures[f"{role}_mean_ece_before"]["mean"]),
                _number(figures[f"{role}_mean_ece"]["mean"]),
                "-" if gap is None else f"{gap:.0%}",
            ]
        )
    return Shown(f"{name}: results", columns, rows)


def _comparisons(name: str, partition: Mapping[str, Any], found: Mapping[str, Any]) -> Shown:
    columns = ["method", "difference [95 %]", "pairs", "p", "p (Holm)", "effect", "wins/ties/losses"]
    rows = [
        [
            method,
            _mean(entry["difference"], signed=True),
            str(entry["pairs"]),
            _p(entry["p"]),
            _p(entry["p_holm"]),
            "-" if entry["effect"] is None else f"{entry['effect']:+.2f}",
            f"{entry['wins']}/{entry['ties']}/{entry['losses']}",
        ]
        for method, entry in partition["comparisons"].items()
    ]
    return Shown(f"{name}: against {found['reference']}", columns, rows)


def _unseen(name: str, partition: Mapping[str, Any]) -> Shown:
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
    return Shown(f"{name}: AUROC at each site when it was left out [95 %]", ["left out", *methods], rows)


def _stability(name: str, partition: Mapping[str, Any]) -> Shown:
    columns = ["method", *(figure.replace("_", " ") for figure in STABILITY)]
    rows = [
        [method, *(_number(entry["figures"][figure]["mean"], ".4g") for figure in STABILITY)]
        for method, entry in partition["methods"].items()
    ]
    return Shown(f"{name}: stability, means over runs", columns, rows)


def _mean(mean: Mapping[str, Any], signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    if mean["mean"] is None:
        return "n/a"
    interval = " [n/a]" if mean["ci"] is None else f" [{mean['ci'][0]:{form}}, {mean['ci'][1]:{form}}]"
    return f"{mean['mean']:{form}}{interval}"


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else f"{value:{form}}"


def _p(value: float | None) -> str:
    return "-" if value is None else "<.001" if value < 0.001 else f"{value:.3f}"
