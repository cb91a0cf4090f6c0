"""The rows of the attack simulation, and the tables of docs/robustness.md made from them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.tables import ROOT
from medfl.study.statistics import mean_over

RUNS = ROOT / "docs" / "results" / "attacks" / "runs.csv"
PAGE = ROOT / "docs" / "robustness.md"
SETTINGS = ((5, 1), (7, 2))  # training sites, and how many of them are malicious
ATTACKS = ("none", "labels", "sign", "scale")
METHODS = ("fedavg", "ecgr", "norm_guard", "norm_clip", "median", "trimmed_mean", "krum", "multi-krum")


@dataclass(frozen=True)
class Run:
    """What one method came to under one attack. Figures are those of the held-out sites, uncalibrated, at the end.

    Attributes:
        sites, malicious: training sites, and how many of them are; under the attack `none` all are honest.
        attack, method, seed: what was run.
        auroc, worst_auroc, balanced_accuracy: mean, lowest and mean over the held-out sites; None: scores not finite.
        counted: rounds that counted.
        refused_malicious, refused_honest: replies that the server refused, over all rounds.
    """

    sites: int
    malicious: int
    attack: str
    method: str
    seed: int
    auroc: float | None
    worst_auroc: float | None
    balanced_accuracy: float | None
    counted: int
    refused_malicious: int
    refused_honest: int

    @property
    def key(self) -> tuple[int, int, str, str, int]:
        """What tells runs apart."""
        return self.sites, self.malicious, self.attack, self.method, self.seed

    @property
    def repeat(self) -> tuple[int, int]:
        """What methods are compared within: the same institutions, patches and initial weights."""
        return self.sites, self.seed


def read(path: Path) -> list[Run]:
    """The rows of a file, none where there is no file."""
    if not path.is_file():
        return []
    texts, figures = ("attack", "method"), ("auroc", "worst_auroc", "balanced_accuracy")

    def value(name: str, cell: str) -> Any:
        if name in texts:
            return cell
        return (float(cell) if cell else None) if name in figures else int(cell)

    with path.open(newline="", encoding="utf-8") as stream:
        return [Run(**{f.name: value(f.name, line[f.name]) for f in fields(Run)}) for line in csv.DictReader(stream)]


def spread(values: Sequence[float | None]) -> str:
    """Mean and range over the seeds, in hundredths; values that are not finite are counted."""
    known = [100 * value for value in values if value is not None]
    lost = f"{len(values) - len(known)} lost" if len(known) < len(values) else ""
    if not known:
        return lost
    shown = f"{sum(known) / len(known):.1f} ({min(known):.1f} to {max(known):.1f})"
    return f"{shown}, {lost}" if lost else shown


def figures_table(runs: Iterable[Run], sites: int, figure: str) -> str:
    """One figure in one setting: methods down, attacks across."""
    here = [run for run in runs if run.sites == sites]
    lines = ["| | " + " | ".join(ATTACKS) + " |", "|---" * (len(ATTACKS) + 1) + "|"]
    for method in METHODS:
        cells = [
            spread([getattr(run, figure) for run in here if (run.method, run.attack) == (method, attack)])
            for attack in ATTACKS
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def against_fedavg(runs: Iterable[Run], figure: str) -> str:
    """Paired difference from FedAvg under the same attack, over all repeats, in hundredths, with its t-interval."""
    by_key = {(run.repeat, run.attack, run.method): getattr(run, figure) for run in runs}
    repeats = sorted({repeat for repeat, _, _ in by_key})
    lines = ["| | " + " | ".join(ATTACKS) + " |", "|---" * (len(ATTACKS) + 1) + "|"]
    for method in METHODS[1:]:
        cells = []
        for attack in ATTACKS:
            pairs = [(by_key.get((r, attack, method)), by_key.get((r, attack, "fedavg"))) for r in repeats]
            moved = mean_over(100 * (a - b) for a, b in pairs if a is not None and b is not None)
            if moved.mean is None or moved.low is None or moved.high is None:
                cells.append("")
                continue
            clear = moved.low > 0 or moved.high < 0
            shown = f"{moved.mean:+.1f} [{moved.low:+.1f}, {moved.high:+.1f}]"
            cells.append(f"**{shown}**" if clear else shown)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def refusals_table(runs: Iterable[Run]) -> str:
    """Refused replies of all runs together, and rounds that did not count, where there are any."""
    runs = list(runs)
    lines = ["| | attack | refused, of malicious sites | refused, of honest sites | rounds that counted |"]
    lines.append("|---|---|--:|--:|--:|")
    for method in METHODS:
        for attack in ATTACKS:
            here = [run for run in runs if (run.method, run.attack) == (method, attack)]
            bad, good = sum(run.refused_malicious for run in here), sum(run.refused_honest for run in here)
            if bad or good:
                lines.append(f"| {method} | {attack} | {bad} | {good} | {sum(run.counted for run in here)} |")
    return "\n".join(lines)


def progress(runs: Iterable[Run]) -> str:
    """How many runs there are."""
    return f"{len(list(runs))} runs of {3 * len(SETTINGS) * len(ATTACKS) * len(METHODS)}."


def rewritten(text: str, runs: Sequence[Run]) -> str:
    """docs/robustness.md with every generated part made anew."""
    tables: Mapping[str, Callable[[], str]] = {
        "progress": lambda: progress(runs),
        "auroc-5": lambda: figures_table(runs, 5, "auroc"),
        "auroc-7": lambda: figures_table(runs, 7, "auroc"),
        "accuracy-5": lambda: figures_table(runs, 5, "balanced_accuracy"),
        "accuracy-7": lambda: figures_table(runs, 7, "balanced_accuracy"),
        "against-auroc": lambda: against_fedavg(runs, "auroc"),
        "against-accuracy": lambda: against_fedavg(runs, "balanced_accuracy"),
        "refusals": lambda: refusals_table(runs),
    }
    return pages.rewritten(text, tables)
