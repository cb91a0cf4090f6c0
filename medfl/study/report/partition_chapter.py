"""The chapter of one partition: results, differences, learning curves, sites, stability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from medfl.metrics import format_figure
from medfl.plain_text import shortened
from medfl.report.html_blocks import Picture, Tint, figures, folded, heading, heat_map, join, legend, table, text
from medfl.report.html_page import PageSection
from medfl.study.report import study_charts
from medfl.study.report.leave_one_site_out import unseen_sites
from medfl.study.report.method_curves import learning_curves, steadiness
from medfl.study.report.study_charts import Dots, Level
from medfl.study.report.study_results import StudyEvidence
from medfl.study.run_figures import figure_title
from medfl.study.study_file import ALL, PLAIN
from medfl.study.text_table import TextTable
from medfl.study.text_tables import text_tables


def chapter(evidence: StudyEvidence, name: str, key: str) -> PageSection:
    """Everything on one partition, or on all of them together."""
    partition = evidence.partitions[name]
    whole = name == ALL
    title = "All partitions" if whole else "Methods compared" if name == PLAIN else name
    if not partition["methods"]:
        return PageSection(key, title, text("No run of this partition is done."))
    shown = text_tables({**evidence.study, "partitions": {name: partition}})
    results, stability = shown[0], shown[-1]
    against = shown[1] if partition["comparisons"] else None
    blocks = [_table(evidence, results)]
    if len(partition["methods"]) > 1:
        blocks += [legend(_key(evidence, partition)), figures(_by_method(evidence, name, partition))]
    if not whole and len(evidence.seeds) > 1:
        blocks.append(folded(f"{_title(evidence)}, seed by seed", _seeds(evidence, name, partition)))
    if against:
        blocks += [heading(f"Against {evidence.reference}"), text(READING), _table(evidence, against)]
    if not whole:
        if evidence.study.get("leave_one_site_out"):
            blocks += unseen_sites(evidence, name, partition)
        else:
            blocks += _site_by_site(evidence, partition)
        blocks += learning_curves(evidence, name, partition)
    blocks += [heading("Stability over the rounds"), _table(evidence, stability)]
    blocks += steadiness(evidence, name, partition)
    return PageSection(key, title, join(*blocks), _lead(evidence, partition, whole))


READING = (
    "Differences and their intervals are over federations: the sites of one share a model. Pairs of seed and site are "
    "described only: the effect is the matched-pairs rank-biserial correlation, and pairs nearer than 0.001 are ties."
)


def _title(evidence: StudyEvidence) -> str:
    title = figure_title(evidence.figure)
    return title[0].upper() + title[1:]


def _lead(evidence: StudyEvidence, partition: Mapping[str, Any], whole: bool) -> str:
    unit = evidence.unit
    if whole:
        return f"{_title(evidence)}: {_pooled(evidence)} It answers “on the whole?”, and only that."
    counts = [entry["figures"][evidence.figure]["n"] for entry in partition["methods"].values()]
    several = f"{'up to ' if min(counts) < max(counts) else ''}{max(counts)} {unit}s"
    over = f"means over {several}, intervals 95\u00a0% by Student's t" if max(counts) > 1 else _alone(evidence)
    return f"{_title(evidence)}: {over}. Methods stand in the order of the study file, not by rank."


def _alone(evidence: StudyEvidence) -> str:
    return f"one {evidence.unit if len(evidence.seeds) > 1 else 'seed'}, no interval"


def _pooled(evidence: StudyEvidence) -> str:
    """How partitions are put together; in a study of an earlier version every repeat counted."""
    if not evidence.study["pooled"]:
        return "the repeats of every partition pooled, so that an interval here is over seeds and partitions together."
    out = [name for name in evidence.partitions if name not in (ALL, *evidence.study["pooled"])]
    left = f" Left out, as one {evidence.unit} alone: {', '.join(out)}." if out else ""
    return (
        f"a {evidence.unit}'s number is its mean over the partitions, each of the same weight; intervals are over "
        f"{evidence.unit}s.{left}"
    )


def _table(evidence: StudyEvidence, shown: TextTable) -> Markup:
    """A table as the console prints it, with a rule above the brackets at its end."""
    names = [row[0] for row in shown.rows]
    columns = [column.replace(figure_title(evidence.figure), _short(evidence)) for column in shown.columns]
    starts = [i for i, name in enumerate(names) if i and evidence.is_bracket(name) > evidence.is_bracket(names[i - 1])]
    return table(columns, shown.rows, break_before=starts)


def _short(evidence: StudyEvidence) -> str:
    """The figure's name without where it is measured, which the lead says."""
    return figure_title(evidence.figure).partition(" at ")[0]


def _by_method(evidence: StudyEvidence, name: str, partition: Mapping[str, Any]) -> list[Picture]:
    """Means, differences, wins and losses: three pictures with the same rows."""
    pictures = [_means(evidence, name, partition)]
    if partition["comparisons"]:
        pictures += [_differences(evidence, name, partition), _tallies(evidence, name, partition)]
    return pictures


def _key(evidence: StudyEvidence, partition: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the three pictures are drawn with."""
    several = any(entry["figures"][evidence.figure]["n"] > 1 for entry in partition["methods"].values())
    dots = f"mean (dot) with its 95\u00a0% interval; small dots: the {evidence.unit}s"
    words = dots if several else _alone(evidence)
    key = [("line", "after", words)]
    if partition["brackets"]:
        key.append(("mark", "quiet", " and ".join(partition["brackets"])))
    if partition["comparisons"]:
        key += [
            ("box", study_charts.WINS, "wins"),
            ("box", study_charts.TIES, "ties"),
            ("box", study_charts.LOSSES, "losses"),
        ]
    return key


def _means(evidence: StudyEvidence, name: str, partition: Mapping[str, Any]) -> Picture:
    rows = []
    for method, entry in partition["methods"].items():
        mean = entry["figures"][evidence.figure]
        points = evidence.values(name, method, evidence.figure) if mean["n"] > 1 else []
        words = format_figure(mean["mean"])
        rows.append(Dots(method, mean["mean"], _pair(mean["ci"]), points, words, evidence.is_bracket(method)))
    ends = [Level(value, arm, True) for arm, value in partition["brackets"].items() if value is not None]
    means = "; ".join(f"{row.label} {row.beside}{_interval(row.ends)}" for row in rows)
    within = "".join(f" {level.word} lies at {level.at:.3f}." for level in ends)
    finding = f"{_title(evidence)} by method in {name}: {means}.{within}"
    name = f"means {name}"
    picture = study_charts.dots(rows, name=name, finding=finding, xlabel=_short(evidence), levels=ends, lines=2)
    return Picture(_title(evidence), picture)


def _differences(evidence: StudyEvidence, name: str, partition: Mapping[str, Any]) -> Picture:
    rows = []
    for method in partition["methods"]:
        if method == evidence.reference:
            rows.append(Dots(method, None, beside="reference"))
            continue
        mean = partition["comparisons"][method]["difference"]
        points = evidence.moved(name, method, evidence.figure) if mean["n"] > 1 else []
        words = format_figure(mean["mean"], "+.3f")
        rows.append(Dots(method, mean["mean"], _pair(mean["ci"]), points, words, evidence.is_bracket(method)))
    means = "; ".join(
        f"{row.label} {row.beside}{_interval(row.ends, '+')}" for row in rows if row.label != evidence.reference
    )
    finding = (
        f"Mean difference of {figure_title(evidence.figure)} to {evidence.reference} in {name}, seed by seed: {means}."
    )
    zero = [Level(0.0, shortened(evidence.reference, study_charts.LONGEST))]
    # The brackets may be far away: the scale is for the methods, and an arrow points to where the others are.
    federated = [row for row in rows if not row.minor and row.mean is not None] or rows
    picture = study_charts.dots(
        rows,
        name=f"differences {name}",
        finding=finding,
        xlabel="worse  ←  difference  →  better",
        levels=zero,
        signed=True,
        span=study_charts.span_of(federated, zero),
        lines=2,
    )
    return Picture(f"Difference to {evidence.reference}", picture, "paired by seed")


def _tallies(evidence: StudyEvidence, name: str, partition: Mapping[str, Any]) -> Picture:
    rows: list[tuple[str, tuple[int, int, int] | None, str]] = []
    for method in partition["methods"]:
        entry = partition["comparisons"].get(method)
        if entry is None:
            rows.append((method, None, "reference"))
        elif not entry["pairs"]:
            rows.append((method, None, "no pairs"))
        else:
            counts = (entry["wins"], entry["ties"], entry["losses"])
            rows.append((method, counts, "/".join(map(str, counts))))
    tallies = "; ".join(f"{method} {words}" for method, counts, words in rows if counts)
    finding = (
        f"Wins, ties and losses of AUROC against {evidence.reference} in {name}, by seed and site: {tallies or 'none'}."
    )
    picture = study_charts.tallies(rows, name=f"tallies {name}", finding=finding, lines=2)
    return Picture("Wins, ties, losses", picture, "by seed and site")


def _seeds(evidence: StudyEvidence, name: str, partition: Mapping[str, Any]) -> Markup:
    rows = []
    for method in partition["methods"]:
        values = evidence.by_repeat(name, method, evidence.figure)
        rows.append([method, *(format_figure(values.get((name, seed))) for seed in evidence.seeds)])
    return table(["method", *(f"seed {seed}" for seed in evidence.seeds)], rows)


def _site_by_site(evidence: StudyEvidence, partition: Mapping[str, Any]) -> list[Markup]:
    """Wins, ties and losses at each site, where sites of the seeds have names in common."""
    counted = {name: entry["by_site"] for name, entry in partition["comparisons"].items() if entry["by_site"]}
    sites = sorted({site for by_site in counted.values() for site in by_site})
    if len(sites) < 2 or len(evidence.seeds) < 2:
        return []
    rows = [(name, [_score(by_site.get(site)) for site in sites]) for name, by_site in counted.items()]
    same = (
        "All seeds had the same patches there."
        if evidence.same_patches
        else "Its patches changed from seed to seed; the name is what the seeds have in common."
    )
    return [
        heading(f"Wins/ties/losses against {evidence.reference}, site by site"),
        legend([("box", "heat", f"the deeper, the larger the share of losses; a pair a seed. {same}")]),
        heat_map(["method", *sites], rows),
    ]


def _score(counts: Sequence[int] | None) -> Tint:
    if counts is None or not sum(counts):
        return Tint("-", None)
    return Tint("/".join(map(str, counts)), counts[2] / sum(counts))


def _pair(ci: Sequence[float] | None) -> tuple[float, float] | None:
    return None if ci is None else (ci[0], ci[1])


def _interval(ends: tuple[float, float] | None, sign: str = "") -> str:
    return "" if ends is None else f" [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]"
