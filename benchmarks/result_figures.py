"""The four figures of docs/results.md, drawn from the committed tables."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import designed
from benchmarks.tables import RESULTS, ROOT, Runs
from medfl.study.study_tables import number

IMAGES = ROOT / "docs" / "images"
BLUE, GREY, RED, PALE = "#1b6ca8", "#7a7a7a", "#c1443c", "#e6eef5"
STYLE: dict[str, Any] = {
    "svg.hashsalt": "medfl",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
HELD_OUT = ("regional-hospital", "foreign-laboratory", "private-laboratory")
REMEDIES = {"none": "as it is", "normalise": "stain normalised", "normalise+class_mix": "and class mix stated"}
CHAINED = {"FedProx": "fedprox", "SCAFFOLD": "scaffold", "FedDyn": "feddyn", "FedNova": "fednova", "FedLC": "fedlc"}
OTHERS = {label: (name, "fedavg") for label, name in CHAINED.items()}
WITH_ECGR = {
    "FedAvg": ("ecgr-at-fedavg", "fedavg"),
    **{label: (f"{name}-ecgr", name) for label, name in CHAINED.items()},
    "adaptive, coherence": ("adaptive-coherence", "fedavg-at-ecgr"),
    "adaptive, spread": ("adaptive-spread", "fedavg-at-ecgr"),
}
Line = tuple[str, float, tuple[float, float] | None]
"""A name, an estimate and its 95 % interval."""


def by_stratum(figure: str) -> list[Line]:
    """ECGR against FedAvg with heads on frozen features: every stratum, then all of them."""
    entry = designed.entry("heads", "ecgr", "fedavg", figure)
    if entry is None or entry["ci"] is None:
        return []
    cells = {**entry["strata"], "all strata": entry}
    return [(name, cell["estimate"], tuple(cell["ci"])) for name, cell in cells.items() if cell["ci"]]


def against(names: Mapping[str, tuple[str, str]]) -> list[Line]:
    """Held-out AUROC, heads on frozen features, all strata: label -> (method, the other)."""
    lines: list[Line] = []
    for label, pair in names.items():
        entry = designed.entry("heads", *pair, "held_out_mean_auroc")
        if entry is not None and entry["ci"] is not None and not entry["open_runs"]:
            lines.append((label, entry["estimate"], tuple(entry["ci"])))
    return lines


def scanners() -> list[tuple[str, str, list[float]]]:
    """(method, where, AUROC of every run): at the scanner left out, and at TCGA."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in Runs.load("mitosis").sites:
        value = number(row, "auroc")
        if (row["role"], row["model"]) == ("held_out", "global") and value is not None:
            where = "TCGA" if row["site"] == "tcga" else "scanner left out"
            found.setdefault((row["method"], where), []).append(value)
    return [(method, where, values) for (method, where), values in found.items()]


def remedies() -> dict[str, dict[str, float]]:
    """Network -> remedy -> ECE, a mean over the held-out sites and two seeds."""
    with (RESULTS / "adaptation.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["site"] in HELD_OUT]
    means: dict[str, dict[str, float]] = {}
    for network in ("small", "frozen"):
        for remedy in REMEDIES:
            values = [float(row["ece"]) for row in rows if (row["network"], row["remedy"]) == (network, remedy)]
            means.setdefault(network, {})[remedy] = sum(values) / len(values)
    return means


def forest(axes: Axes, lines: Sequence[Line], neutral: float) -> None:
    """Estimates with their intervals, the first at the top."""
    axes.axvline(neutral, color=GREY, lw=0.8)
    for place, (_, estimate, ends) in enumerate(reversed(lines)):
        if ends is not None:
            axes.plot(ends, [place, place], color=BLUE, lw=1.6, solid_capstyle="butt")
        axes.plot([estimate], [place], "o", color=BLUE, ms=4.5)
    name_rows(axes, [name for name, *_ in lines])


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a chart, the first at the top."""
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_ylim(-0.6, len(names) - 0.4)


def _primary() -> Figure:
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axvspan(-0.005, 0.005, color=PALE, lw=0)
    forest(left, by_stratum("held_out_mean_auroc"), 0.0)
    left.set_xlabel("AUROC at held-out sites, ECGR minus FedAvg\n(shaded: too small to matter)")
    forest(right, by_stratum("trend_free_oscillation"), 1.0)
    right.set_xscale("log")
    right.set_xlabel("oscillation, ECGR over FedAvg\n(below 1: steadier)")
    return figure


def _methods() -> Figure:
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    forest(left, against(OTHERS), 0.0)
    left.set_xlabel("AUROC at held-out sites, minus that of FedAvg\n(all at FedAvg's learning rate)")
    right.axvspan(-0.005, 0.005, color=PALE, lw=0)
    forest(right, against(WITH_ECGR), 0.0)
    right.set_xlabel("AUROC at held-out sites, minus that without ECGR\n(at one rate; shaded: too small to matter)")
    return figure


def _scanners() -> Figure:
    methods = list(dict.fromkeys(method for method, *_ in scanners()))
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(methods)), layout="constrained")
    places: Sequence[Axes] = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, where in zip(places, ("scanner left out", "TCGA"), strict=True):
        for method, there, values in scanners():
            if there == where:
                place = len(methods) - 1 - methods.index(method)
                axes.plot(values, [place] * len(values), "o", color=BLUE, ms=4.5, alpha=0.6)
                axes.plot([sum(values) / len(values)], [place], "|", color=RED, ms=14)
        name_rows(axes, methods)
        axes.set_xlabel(f"AUROC at {'the ' if where != 'TCGA' else ''}{where} (a dot a run, bar: mean)")
    return figure


def _remedies() -> Figure:
    figure = Figure(figsize=(9, 2.2), layout="constrained")
    axes = figure.subplots()
    for offset, (network, means) in zip((0.18, -0.18), remedies().items(), strict=True):
        label = {"small": "small network from random weights", "frozen": "head on ImageNet features"}[network]
        places = [len(means) - 1 - index + offset for index in range(len(means))]
        axes.barh(places, list(means.values()), 0.34, color=GREY if network == "small" else BLUE, label=label)
        for place, value in zip(places, means.values(), strict=True):
            axes.text(value + 0.004, place, f"{value:.3f}", va="center", fontsize=8)
    name_rows(axes, list(REMEDIES.values()))
    axes.set_xlabel("calibration error (ECE) at held-out sites; 0 is best")
    axes.legend(frameon=False, loc="lower right")
    return figure


FIGURES: Mapping[str, Callable[[], Figure]] = {
    "results-primary": _primary,
    "results-methods": _methods,
    "results-scanners": _scanners,
    "results-remedies": _remedies,
}


def draw(folder: Path = IMAGES) -> None:
    """Write the four SVG files."""
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        for name, made in FIGURES.items():
            made().savefig(folder / f"{name}.svg", metadata={"Date": None})
