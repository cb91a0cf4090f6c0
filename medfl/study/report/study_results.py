"""What a study's report is made of: study.json and the three tables, asked by partition, method, seed and site."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medfl.errors import MedflError
from medfl.metrics.t_intervals import logit_around
from medfl.runs.records import read_json
from medfl.runs.redact import scrub_text
from medfl.study.csv_rows import Row, read_table
from medfl.study.pool import Pool, Repeat
from medfl.study.report.curve_table import Curves
from medfl.study.run_figures import bounds, over_folds, run_figures
from medfl.study.statistics import mean_over
from medfl.study.study_file import ALL, BRACKETS
from medfl.study.study_tables import Tables, number

STUDY, RUNS = "study.json", "runs.csv"
KEYS = ("name", "figure", "reference", "seeds", "methods", "partitions", "planned", "done", "one_seed")
PARTS = ("methods", "brackets", "comparisons", "unseen")


@dataclass(frozen=True)
class Unseen:
    """A method at one unseen site, an entry a seed.

    Attributes:
        auroc: of each seed.
        ci: the interval that study.json states: over seeds; of one seed, over the site's source groups.
        ends: the 95 % interval of each seed over the site's source groups; None where there is none.
        groups: source groups at the site, the fewest of all seeds; None where not told.
    """

    auroc: Mapping[str, float]
    ci: tuple[float, float] | None
    ends: Mapping[str, tuple[float, float] | None]
    groups: int | None

    @property
    def mean(self) -> float | None:
        """Over seeds."""
        return math.fsum(self.auroc.values()) / len(self.auroc) if self.auroc else None

    @property
    def envelope(self) -> tuple[float, float] | None:
        """From the lowest to the highest end of the seeds' intervals; None where a seed has none."""
        present = [ends for ends in self.ends.values() if ends]
        if not present or len(present) < len(self.ends):
            return None
        return min(low for low, _ in present), max(high for _, high in present)


@dataclass(frozen=True)
class StudyEvidence:
    """A study as its report tells it.

    Attributes:
        study: study.json, its free text without local paths.
        runs, sites: the tables' rows, those of methods and partitions that `study` names.
        curves: those of curves.csv.
    """

    study: Mapping[str, Any]
    runs: Sequence[Row]
    sites: Sequence[Row]
    curves: Curves

    @property
    def figure(self) -> str:
        """The figure of the headline."""
        return str(self.study["figure"])

    @property
    def reference(self) -> str:
        """The method that the others are compared with."""
        return str(self.study["reference"])

    @property
    def seeds(self) -> list[str]:
        """As the tables write them."""
        return [str(seed) for seed in self.study["seeds"]]

    @property
    def partitions(self) -> dict[str, Mapping[str, Any]]:
        """What study.json says of every partition; last all of them together, once there are runs of two."""
        by_name: dict[str, Mapping[str, Any]] = dict(self.study["partitions"])
        begun = sum(bool(partition["methods"]) for name, partition in by_name.items() if name != ALL)
        return by_name if begun > 1 else {name: partition for name, partition in by_name.items() if name != ALL}

    @property
    def most_units(self) -> int:
        """Federations of the method that has most of them in one partition."""
        parts = [partition["methods"] for name, partition in self.partitions.items() if name != ALL]
        return max((entry["figures"][self.figure]["n"] for methods in parts for entry in methods.values()), default=0)

    @property
    def methods(self) -> dict[str, Sequence[Any]]:
        """Name -> chain, in the order of the study file."""
        return dict(self.study["methods"])

    @property
    def unit(self) -> str:
        """What counts once: a federation, or a seed."""
        return str(self.study["unit"])

    def is_bracket(self, method: str) -> bool:
        """Whether a method is `local_only` or `centralised`: no federation."""
        return any(link in BRACKETS for link in self.methods[method] if isinstance(link, str))

    @property
    def compared(self) -> list[str]:
        """The federated methods but the reference."""
        return [name for name in self.methods if name != self.reference and not self.is_bracket(name)]

    @cached_property
    def deals(self) -> dict[tuple[str, str, str], set[str]]:
        """(partition, seed, fold) -> digests of the data that its runs were trained and measured on."""
        by_deal: dict[tuple[str, str, str], set[str]] = {}
        for row in self.runs:
            by_deal.setdefault((row["partition"], row["seed"], row["fold"]), set()).add(row["data"])
        return by_deal

    @property
    def same_patches(self) -> bool:
        """Whether every seed had the same patches at the same sites, so that only chance in training differs."""
        folds: dict[tuple[str, str], set[str]] = {}
        for (partition, _, fold), digests in self.deals.items():
            folds.setdefault((partition, fold), set()).update(digests)
        return all(len(digests) == 1 for digests in folds.values())

    def runs_of(self, partition: str, method: str = "") -> list[Row]:
        """Lines of runs.csv; of every method, and of every partition, where asked for."""
        return [row for row in self.runs if partition in (row["partition"], ALL) and method in (row["method"], "")]

    def by_repeat(self, partition: str, method: str, column: str) -> dict[Repeat, float | None]:
        """A figure of every repeat: of its one run, or over its folds, as in study.json."""
        columns: dict[Repeat, list[float | None]] = {}
        for row in self.runs_of(partition, method):
            columns.setdefault((row["partition"], row["seed"]), []).append(number(row, column))
        return {repeat: over_folds(column, values) for repeat, values in columns.items()}

    def values(self, partition: str, method: str, column: str) -> list[float]:
        """The same as a number each federation, those without the figure left out."""
        return self._by_unit(partition, self.by_repeat(partition, method, column))

    def _by_unit(self, partition: str, values: Mapping[Repeat, float | None]) -> list[float]:
        own = self.partitions[partition].get("federations", {})
        named = {repeat: own.get(" ".join(repeat), " ".join(repeat)) for repeat in values}
        strata = self.study["pooled"] if partition == ALL else [partition]
        if not strata:  # of an earlier version, which pooled repeats
            return [value for value in values.values() if value is not None]
        return list(Pool(named, strata).means(values).values())

    def moved(self, partition: str, method: str, column: str) -> list[float]:
        """What each federation differs by from the reference."""
        reference = self.by_repeat(partition, self.reference, column)
        pairs = {key: (value, reference.get(key)) for key, value in self.by_repeat(partition, method, column).items()}
        moved = {key: value - other for key, (value, other) in pairs.items() if value is not None and other is not None}
        return self._by_unit(partition, moved)

    def unseen(self, partition: str, method: str) -> dict[str, Unseen]:
        """A method at every site that took its turn as the unseen one.

        With `local_only` a figure is the mean over the other sites' own models, and has no interval.
        """
        folds = [row for row in self.runs_of(partition, method) if row["fold"]]
        lines = {
            (row["seed"], row["fold"]): row
            for row in self.sites
            if (row["partition"], row["method"], row["model"]) == (partition, method, "global")
            and row["site"] == row["fold"]
        }
        by_site = {}
        for site in dict.fromkeys(row["fold"] for row in folds):
            runs = {row["seed"]: row for row in folds if row["fold"] == site}
            auroc = {seed: number(row, "held_out_mean_auroc") for seed, row in runs.items()}
            own = {seed: lines[seed, site] for seed in runs if (seed, site) in lines}
            present = {seed: value for seed, value in auroc.items() if value is not None}
            ends = {seed: _ends(own.get(seed)) for seed in present}
            groups = [int(row["groups"]) for row in own.values() if row["groups"]]
            analysis = self.partitions[partition]["unseen"].get(site, {}).get(method)
            ci = (analysis["ci"] or analysis["auroc"]["ci"]) if analysis else None
            by_site[site] = Unseen(present, (ci[0], ci[1]) if ci else None, ends, min(groups, default=None))
        return by_site


def read_study(folder: Path) -> StudyEvidence:
    """Read a study folder.

    Raises:
        MedflError: no study, a study that was never brought to its end, or a damaged file.
    """
    if not (folder / STUDY).is_file():
        raise MedflError(
            f"{folder} has no {STUDY} yet; `medfl study STUDY.yaml --out {folder}` writes it at its end, and with "
            "--tables at once"
        )
    study = read_json(folder / STUDY)
    missing = [key for key in KEYS if key not in study]
    missing += sorted({key for part in (study.get("partitions") or {}).values() for key in PARTS if key not in part})
    if missing:
        raise MedflError(f"{folder / STUDY} lacks {', '.join(missing)}; `medfl study` with --tables writes it anew")
    Tables.load(folder)  # refuses damaged tables in a sentence
    for part in study["partitions"].values():  # figures that a version before this one did not know
        for entry in (*part["methods"].values(), *part["comparisons"].values()):
            entry["figures"] = {key: mean_over(()).to_json() for key in run_figures()} | entry["figures"]
        _bound(part, study["figure"])
    study = {
        "unit": "repeat",
        "pooled": [],
        "endpoints": [],
        "design": None,
        "tuned": None,
    } | study  # of an earlier version
    study["description"] = scrub_text(str(study.get("description") or "").strip())
    study["failed"] = {title: scrub_text(why) for title, why in (study.get("failed") or {}).items()}
    pairs = {(partition, method) for partition in study["partitions"] for method in study["methods"]}
    runs, sites, curves = (
        [row for row in read_table(folder / name) if (row["partition"], row["method"]) in pairs]
        for name in (RUNS, "sites.csv", "curves.csv")
    )
    return StudyEvidence(study, runs, sites, Curves(curves))


def _bound(part: Mapping[str, Any], headline: str) -> None:
    """Bring intervals of a version before this one, which could pass the bounds of their figure, to its scale."""
    means = [(entry["figures"][key], bounds(key)) for entry in part["methods"].values() for key in run_figures()]
    unseen = [entry["auroc"] for methods in part["unseen"].values() for entry in methods.values()]
    means += [(mean, bounds("held_out_mean_auroc")) for mean in unseen]
    for entry in part["comparisons"].values():
        for mean, of in ((entry["difference"], headline), *((entry["figures"][key], key) for key in run_figures())):
            ends = bounds(of)
            means.append((mean, ends and (ends[0] - ends[1], ends[1] - ends[0])))
    for mean, ends in means:
        if ends and mean["ci"] and not ends[0] <= mean["ci"][0] <= mean["ci"][1] <= ends[1]:
            mean["ci"] = list(logit_around(mean["mean"], mean["ci"][1] - mean["mean"], ends))


def _ends(row: Row | None) -> tuple[float, float] | None:
    low, high = (number(row, end) if row else None for end in ("auroc_low", "auroc_high"))
    return None if low is None or high is None else (low, high)
