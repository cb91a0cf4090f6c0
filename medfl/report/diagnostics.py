"""Sections on single sites: reliability diagrams, ROC curves with operating points, confusion matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from medfl.metrics import format_figure, format_interval
from medfl.metrics.adaptive_bins import joined_bins, noise_floor
from medfl.metrics.fit_words import fit_cautions, fit_means, fit_name, fit_ways
from medfl.metrics.formatting import WITHHELD, format_about, format_count
from medfl.metrics.group_support import FEW_GROUPS
from medfl.report import charts
from medfl.report.chart_style import class_token
from medfl.report.html_blocks import Picture, figures, folded, heading, join, legend, matrix, table, text
from medfl.report.html_page import PageSection
from medfl.report.run_results import Evidence, arrow, interval, role_word

TILTED = 0.02
"""Mean confidence and accuracy this far apart are called over- or under-confidence."""
LOW_FPR = 0.1


def calibration(evidence: Evidence) -> PageSection | None:
    """Reliability diagrams, before and after calibration, and what was fitted."""
    shown = {name: entry for name, entry in evidence.measured.items() if entry.get("reliability") and entry["n"]}
    if not shown:
        return None
    key = [("line", "after", "after calibration" if evidence.calibrated else "as the network gave them")]
    if evidence.calibrated:
        key.insert(0, ("dash", "before", "before calibration"))
    diagrams = [_reliability(evidence, name, entry) for name, entry in shown.items()]
    extra = []
    if not evidence.site:
        for role, words in (("held_out", "All held-out sites"), ("train", "All training sites")):
            part = (evidence.summary.get("pooled") or {}).get(role)
            if part and part.get("reliability") and len(part["sites"]) > 1:
                extra.append(_reliability(evidence, words, part, f"pooled-{role}"))
    key += [("dots", "quiet", "perfectly calibrated"), ("band", "quiet", "where chance alone would put a point")]
    body = [text(_fit(evidence)), legend(key), figures(diagrams)]
    if extra:
        body += [heading("Pooled over sites"), figures(extra)]
    lead = (
        "How often the model is right when it says it is so sure. Above the diagonal it is right more often than it "
        "says, below it less often. Each point stands for about as many patches as the others, of five source groups "
        "or more; a grey bar is where 95\u00a0% of the points of a calibrated model would be, a group counting as one. "
        "Noise alone: the ECE that a calibrated model would show on as many source groups."
    )
    return PageSection("reliability", "Calibration", join(*body), lead)


def _fit(evidence: Evidence) -> str:
    fit = evidence.summary.get("calibration")
    own = evidence.summary.get("temperatures")
    if evidence.summary.get("calibrations"):
        return "Each site's own model has factors and constants of its own, fitted on the site's validation data."
    if fit and not own:
        words = f"{fit_name(fit)}: {fit_means(fit)}."
        if evidence.site:
            return words  # the rest is about the training sites together
        better = arrow(format_figure(fit["nll_before"]), format_figure(fit["nll_after"]))
        words += (
            f" Fitted on {fit['patches']:,} validation patches of the training sites{fit_ways(fit)}, from sums, so no "
            f"score left a site; their NLL went {better}"
        )
        return "; ".join([words, *fit_cautions(fit)]) + "."
    if own:
        return "Each site's own model has its own temperature, fitted on the site's validation data."
    return "Nothing was fitted in this run: one curve a site, uncalibrated."


def _reliability(evidence: Evidence, name: str, entry: Mapping[str, Any], key: str = "") -> Picture:
    calibration = (evidence.curves.get(name) or {}).get("calibration") if not key else None
    before = entry.get("reliability_before")
    after = calibration["after"] if calibration else joined_bins(entry["reliability"])
    if before is not None:
        before = calibration["before"] if calibration else joined_bins(before)
    confidence, accuracy = _means(after)
    gap = confidence - accuracy
    tilt = (
        "over-confident"
        if gap > TILTED
        else "under-confident"
        if gap < -TILTED
        else "neither over- nor under-confident"
    )
    shift = f"ECE {format_figure(entry['ece'])}"
    if before is not None:
        shift = f"ECE {arrow(format_figure(entry['ece_before']), format_figure(entry['ece']))}"
    own = (evidence.summary.get("temperatures") or {}).get(name)
    noise = format_figure(noise_floor(after) if entry.get("ece_noise") is None else entry["ece_noise"])
    note = shift + (f", temperature {own:.3f}" if own else "") + f", noise alone {noise}"
    finding = (
        f"Reliability at {name}: {shift.replace('→', 'before calibration,')}"
        f"{' after' if before is not None else ''}; mean confidence {confidence:.2f}, accuracy {accuracy:.2f} over "
        f"{entry['n']} patches, {tilt}; noise alone would give {noise}."
    )
    picture = charts.reliability(after, before, name=f"reliability {key or name}", finding=finding)
    return Picture(name, picture, note)


def _means(bins: Mapping[str, Sequence[Any]]) -> tuple[float, float]:
    """Mean confidence and accuracy over all patches of the bins."""
    total = sum(bins["count"]) or 1
    filled = [
        (n, c, a) for n, c, a in zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True) if c is not None
    ]
    return math.fsum(n * c for n, c, _ in filled) / total, math.fsum(n * a for n, _, a in filled) / total


def discrimination(evidence: Evidence) -> PageSection | None:
    """ROC curves with bands, class by class, and the operating points; of held-out sites, or of the page's one site."""
    chosen = [evidence.site] if evidence.site else evidence.of_role("held_out") or evidence.of_role("train")
    drawn = [name for name in chosen if name in evidence.curves]
    blocks: list[Markup] = []
    for name in drawn:
        blocks += [heading(name), _roc_curves(evidence, name)]
    points = [row for name in chosen for row in _points(evidence, name)]
    if points:
        wanted = (evidence.summary.get("operating") or {}).get("sensitivity")
        columns = ["site", "target", "threshold", "positives", "negatives", "sensitivity [95 %]", "specificity [95 %]"]
        blocks.append(heading("Operating points"))
        if wanted:
            blocks.append(
                text(
                    f"Thresholds were chosen on validation data of the training sites for a sensitivity of {wanted:g} "
                    "and held fixed; what they give at sites that had no part in choosing them is the measurement."
                )
            )
        starts = [i for i in range(1, len(points)) if points[i][0] != points[i - 1][0]]
        blocks.append(table(columns, points, text=2, break_before=starts))
    if not blocks:
        return None
    lead = (
        "Sensitivity (up) by false positive rate (across), one class against the rest, with its AUROC. Bands are "
        "pointwise 95\u00a0%, over source groups; the dotted diagonal is chance."
    )
    return PageSection("roc", "ROC curves and operating points", join(*blocks), lead)


def _roc_curves(evidence: Evidence, name: str) -> Markup:
    curves, pictures, absent = evidence.curves[name]["roc"], [], []
    for target, curve in curves.items():
        if curve is None:
            absent.append(target)
            continue
        index = evidence.classes.index(target) if target in evidence.classes else None
        note = _class_auroc(evidence, name, target)
        at = min(range(len(curve["fpr"])), key=lambda i: abs(curve["fpr"][i] - LOW_FPR))
        finding = (
            f"ROC curve of {target} at {name}: {note or 'no AUROC stated'}; sensitivity {curve['tpr'][at]:.2f} at a "
            f"false positive rate of {curve['fpr'][at]:.2f}{'' if curve.get('low') else '; no band'}."
        )
        token = "ink" if index is None else class_token(index)
        pictures.append(Picture(target, charts.roc(curve, token, name=f"roc {name} {target}", finding=finding), note))
    blocks = [figures(pictures, small=True)] if pictures else []
    if absent:
        blocks.append(text(f"No curve where the site has no patches of the class, or no others: {', '.join(absent)}."))
    return join(*blocks)


def _class_auroc(evidence: Evidence, name: str, target: str) -> str:
    """AUROC of one class as the summary has it; of a target that joins classes, that of its score histograms."""
    entry = evidence.measured.get(name)
    if entry and target in (entry.get("auroc_per_class") or {}):
        ci = (entry.get("auroc_per_class_ci") or {}).get(target)
        return format_interval(entry["auroc_per_class"][target], ci, few_groups=_few(entry, target))
    curve = evidence.curves[name]
    if target not in curve.get("targets", ()) or "histograms" not in curve:
        return ""
    from medfl.metrics.histograms import ScoreHistograms

    value = float(ScoreHistograms.from_lists(curve["histograms"]).auroc()[curve["targets"].index(target)])
    return "" if value != value else f"{format_about(value)} [n/a]"


def _few(entry: Mapping[str, Any], name: str) -> bool:
    """Whether a class surely rests on too few source groups on one of its sides, by the summary's counts."""
    groups = {label: count["groups"] or 0 for label, count in entry["support"].items()}
    own = groups.pop(name, 0)
    return bool(own < FEW_GROUPS or sum(groups.values()) < FEW_GROUPS)


def _points(evidence: Evidence, name: str) -> list[list[str]]:
    entry = evidence.measured.get(name)
    points = (entry.get("operating") if entry else None) or {}
    return [
        [
            name,
            target,
            format_figure(point["threshold"]),
            format_count(point["positives"]),
            format_count(point["negatives"]),
            interval(point, "sensitivity"),
            interval(point, "specificity"),
        ]
        for target, point in points.items()
    ]


def confusions(evidence: Evidence) -> PageSection | None:
    """Confusion matrices: those of held-out sites, then those of training sites, folded."""
    shown = {name: entry for name, entry in evidence.measured.items() if entry["n"]}
    if not shown:
        return None
    by_role: dict[str, list[Picture]] = {"held_out": [], "train": []}
    for name, entry in shown.items():
        by_role[entry["role"]].append(_confusion(evidence, name, entry))
    blocks = []
    if evidence.site or not by_role["held_out"]:
        blocks.append(figures(by_role["held_out"] + by_role["train"]))
    else:
        pool = (evidence.summary.get("pooled") or {}).get("held_out")
        if pool and len(pool["sites"]) > 1:
            by_role["held_out"].append(_confusion(evidence, "All held-out sites", pool))
        blocks.append(figures(by_role["held_out"]))
        if by_role["train"]:
            blocks.append(folded(f"Training sites ({len(by_role['train'])})", figures(by_role["train"])))
    lead = (
        "Rows are what a patch is, columns what it was taken for; colour is the share of the row. A field of few "
        f"patients is withheld at a site ({WITHHELD}), and so is another that would tell it; the matrix of all sites "
        "leaves them out."
    )
    return PageSection("confusion", "Confusion matrices", join(*blocks), lead)


def _confusion(evidence: Evidence, name: str, entry: Mapping[str, Any]) -> Picture:
    """The matrix of a site, or of the pooled patches of several."""
    classes, counts = evidence.classes, entry["confusion"]
    total, right = entry["n"], round((entry["accuracy"] or 0.0) * entry["n"])
    fields = [(i, j) for i in range(len(classes)) for j in range(len(classes)) if i != j]
    wrong = [(counts[i][j] or 0, classes[i], classes[j]) for i, j in fields]
    most = max(wrong, key=lambda item: item[0], default=(0, "", ""))
    role = f"{role_word(evidence.roles[name])}, " if name in evidence.roles else ""
    slip = f"; most often {most[1]} taken for {most[2]} ({most[0]})" if most[0] else ""
    finding = f"Confusion matrix of {name}: {right} of {total} patches right{slip}."
    return Picture(name, matrix(classes, counts, finding), f"{role}{right} of {total} right")
