"""How sure each scanner's difference between two methods is, over its patients: docs/results/mitosis/patients.csv.

    uv run python -m benchmarks.scanners [STUDY] [--out FILE]

STUDY is the folder of `medfl study pipelines/studies/mitosis.yaml` with its runs, whose models are measured again at
the sites that they never saw, as `medfl compare` does. Seeds train anew on the same patients, so their spread says
nothing of other patients; here a site's AUROC is the mean over the seeds that both methods have, and its interval is
that of the site's source groups: the influence of a group on a mean is the mean of its influences (see
medfl/metrics/delong.py).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.designed import study_file
from benchmarks.pages import table
from benchmarks.tables import RESULTS, Runs
from medfl.metrics.auroc import FloatArray
from medfl.metrics.delong import class_table, degrees_of_freedom, mean_influence
from medfl.metrics.measure import measure
from medfl.metrics.paired_figures import PairedFigure
from medfl.pipeline.trained_model import find_model
from medfl.runs.folder import RunFolder
from medfl.study.compare_runs import ScoredSite, scored_sites

STUDY = "mitosis"
TABLE = RESULTS / STUDY / "patients.csv"
COLUMNS = ("partition", "method", "against", "site", "seeds", "groups", "one", "other", "difference", "low", "high")


@dataclass(frozen=True)
class Measured:
    """One model at one site: its AUROC, each source group's influence on it f64[G], and the site's patches."""

    auroc: float
    influence: FloatArray
    site: ScoredSite

    @classmethod
    def of(cls, site: ScoredSite, classes: Sequence[str]) -> Measured:
        """Raises ValueError where nothing is known to vary."""
        n_groups = int(site.groups.max()) + 1
        influence = mean_influence(site.probs, site.labels, site.groups, n_groups)
        if influence is None:
            raise ValueError("a site with fewer than two groups of a class")
        return cls(measure(site.probs, site.labels, site.groups, classes)["auroc"], influence, site)


def mean_difference(one: Sequence[Measured], other: Sequence[Measured]) -> PairedFigure:
    """The difference of two methods' mean AUROC over the same seeds at one site, over its source groups."""
    sites = [measured.site for measured in (*one, *other)]
    if any(site.names != sites[0].names for site in sites):
        raise ValueError("the models do not test the same patches")
    away = np.mean([a.influence - b.influence for a, b in zip(one, other, strict=True)], axis=0)
    aurocs = [float(np.mean([measured.auroc for measured in side])) for side in (one, other)]
    table = class_table(sites[0].labels, sites[0].groups, len(away), sites[0].probs.shape[1])
    df = float(degrees_of_freedom(away[:, None], table)[0])
    return PairedFigure(aurocs[0], aurocs[1], float((away**2).sum() ** 0.5), df)


def measured_runs(study: Path) -> dict[tuple[str, str], dict[str, dict[str, Measured]]]:
    """(partition, method) -> seed -> site -> its model measured there, of the runs whose folders are there."""
    found: dict[tuple[str, str], dict[str, dict[str, Measured]]] = {}
    for row in Runs.load(STUDY).runs:
        folder = study / "runs" / row["key"]
        if row["method"] == "local_only" or not (folder / "model.json").is_file():
            continue
        model = find_model(str(folder))
        sites = scored_sites(model, RunFolder.open(folder))
        measured = {name: Measured.of(site, model.facts["classes"]) for name, site in sites.items()}
        found.setdefault((row["partition"], row["method"]), {})[row["seed"]] = measured
    return found


def differences(study: Path) -> Iterator[dict[str, Any]]:
    """A row for every scanner left out, comparison of the study and held-out site."""
    file, found = study_file(STUDY), measured_runs(study)
    assert file.comparisons is not None
    for partition in file.partitions:
        for method, against in file.comparisons.secondary:
            sides = [found.get((partition, name), {}) for name in (method, against)]
            seeds = [seed for seed in sides[0] if seed in sides[1]]
            for site in sides[0][seeds[0]] if seeds else ():
                one, other = ([side[seed][site] for seed in seeds] for side in sides)
                figure = mean_difference(one, other)
                ends = figure.interval() or (None, None)
                values = (figure.one, figure.other, figure.difference, *ends)
                names = (partition, method, against, site, " ".join(seeds), len(one[0].influence))
                yield dict(zip(COLUMNS, (*names, *(f"{value:.5f}" for value in values)), strict=True))


def patients_table() -> str:
    """The committed table for a page."""
    if not TABLE.is_file():
        return "Not measured."
    with TABLE.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    head = [
        "left out",
        "method",
        "against",
        "measured at",
        "seeds",
        "groups",
        "AUROC",
        "the other's",
        "difference [95 %]",
    ]
    return table(head, [_shown(row) for row in rows])


def _shown(row: Mapping[str, str]) -> list[str]:
    names = [row["partition"].removesuffix("-left-out"), row["method"], row["against"], row["site"]]
    one, other, moved, low, high = (float(row[name]) for name in ("one", "other", "difference", "low", "high"))
    shown = [f"{one:.3f}", f"{other:.3f}", f"{moved:+.3f} [{low:+.3f}, {high:+.3f}]"]
    return [*names, str(len(row["seeds"].split())), row["groups"], *shown]


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scanners")
    parser.add_argument("study", nargs="?", type=Path, default=RESULTS / STUDY)
    parser.add_argument("--out", type=Path, default=TABLE)
    asked = parser.parse_args()
    rows = list(differences(asked.study))
    with asked.out.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
