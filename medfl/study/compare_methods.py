"""The methods of a study at every site that did not train, over that site's patients.

A study's seeds deal and train anew, so an interval over them says how far training varies; where they share the
held-out patients it says nothing of others. Here a figure is the mean over seeds, and the interval of a difference is
that of the site's source groups, whose influence on a mean is the mean of their influences
(medfl/metrics/paired_figures.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medfl.errors import MedflError
from medfl.metrics.formatting import format_bounds
from medfl.metrics.paired_figures import PairedFigure, mean_of_models
from medfl.pipeline.trained_model import find_model
from medfl.runs.folder import RunFolder
from medfl.study.compare_runs import ScoredSite, paired_site, scored_sites
from medfl.study.csv_rows import Row, read_table

COLUMNS = (
    *("partition", "fold", "site", "method", "against", "seeds", "patches", "groups", "few_groups"),
    *("figure", "one", "other", "difference", "low", "high"),
)
SHOWN = ("site", "method", "seeds", "groups", "AUROC", "other", "difference [95 %]")


@dataclass(frozen=True)
class ScoredRun:
    """A run's global model, by its facts (model.json), and what it says at the sites that it never saw; `leaky` where
    source groups were ignored."""

    facts: Mapping[str, Any]
    sites: Mapping[str, ScoredSite]
    leaky: bool

    @classmethod
    def of(cls, folder: Path) -> ScoredRun:
        """Measured here and now. Raises MedflError as `find_model`, and where data have changed since."""
        model, run = find_model(str(folder)), RunFolder.open(folder)
        return cls(model.facts, scored_sites(model, run), run.read_summary()["leaky"])


Pair = tuple[ScoredRun, ScoredRun]


@dataclass(frozen=True)
class MethodDifference:
    """What a method moves a figure by at one held-out site.

    Attributes:
        partition, fold: which sites train; "" where the study has none.
        site: where it was measured.
        method, against: `figure` is of the first minus the second.
        seeds: that both methods have, of which every figure is the mean.
        patches, groups: test patches and source groups of the site.
        few: whether those are too few behind a class to say that one method is better.
        key: of the figure, `auroc`, `balanced_accuracy`, `brier`, `ece`, ...
    """

    partition: str
    fold: str
    site: str
    method: str
    against: str
    seeds: tuple[str, ...]
    patches: int
    groups: int
    few: bool
    key: str
    figure: PairedFigure

    @property
    def row(self) -> Row:
        """By `COLUMNS`."""
        figure = self.figure
        numbers = (figure.one, figure.other, figure.difference, *(figure.interval() or (None, None)))
        names = (self.partition, self.fold, self.site, self.method, self.against, " ".join(self.seeds))
        cells = (*names, str(self.patches), str(self.groups), str(self.few).lower(), self.key)
        return dict(zip(COLUMNS, (*cells, *("" if v is None else f"{v:.6f}" for v in numbers)), strict=True))


@dataclass(frozen=True)
class MethodComparison:
    """The methods of a study against one of them.

    Attributes:
        against: the one.
        differences: by partition, fold, method, site and figure.
        notices: what was left out, a sentence each.
        leaky: whether source groups were ignored in a run.
    """

    against: str
    differences: Sequence[MethodDifference]
    notices: Sequence[str]
    leaky: bool


def compare_methods(
    study: Path, against: str | None = None, step: Callable[[str, int, int], None] = lambda what, done, total: None
) -> MethodComparison:
    """Every method of a study's folder against one of them, the first of the table if none is named.

    Only seeds count that both methods have, where they test the patches of the first such seed. Runs without a global
    model (`local_only`) or whose folders are gone are left out, and sites of too few source groups to be told of.

    Args:
        study: the folder, with the runs' own.
        against: the method that all others are compared with.
        step: told what is being done, how much of it is done and of how much.

    Raises:
        MedflError: no table of runs, no such method, nothing to compare, or a run whose data have changed since.
    """
    rows = read_table(study / "runs.csv")
    if not rows:
        raise MedflError(f"{study} is no folder of a study, or none of its runs is done: there are no rows in runs.csv")
    methods = Counter(row["method"] for row in rows)
    reference = next(iter(methods)) if against is None else against
    if reference not in methods:
        raise MedflError(f"--against {against}: no method of {study}, whose methods are {', '.join(methods)}")
    scored: dict[str, ScoredRun] = {}
    for number, row in enumerate(rows, start=1):
        folder = study / "runs" / row["key"]
        if (folder / "model.json").is_file():
            scored[row["key"]] = ScoredRun.of(folder)
        step("models measured", number, len(rows))
    without = Counter(row["method"] for row in rows if row["key"] not in scored)
    notices = [
        f"{method}: {count} of {methods[method]} runs have no global model in {study / 'runs'}; they are left out."
        for method, count in without.items()
    ]
    differences: list[MethodDifference] = []
    for place in dict.fromkeys((row["partition"], row["fold"]) for row in rows):
        here = [row for row in rows if (row["partition"], row["fold"]) == place]
        differences += _differences(here, reference, scored, notices)
    if not differences:
        why = "".join(f" {notice}" for notice in notices)
        raise MedflError(f"{study} has no two models of one seed to compare with {reference} at held-out sites.{why}")
    leaky = any(run.leaky for run in scored.values())
    return MethodComparison(reference, differences, list(dict.fromkeys(notices)), leaky)


def _differences(
    rows: Sequence[Row], reference: str, scored: Mapping[str, ScoredRun], notices: list[str]
) -> Iterator[MethodDifference]:
    """Of one partition and fold; `scored` holds its runs by their keys."""
    by_method: dict[str, dict[str, ScoredRun]] = {}
    for row in rows:
        if row["key"] in scored:
            by_method.setdefault(row["method"], {})[row["seed"]] = scored[row["key"]]
    base = by_method.pop(reference, {})
    place = (rows[0]["partition"], rows[0]["fold"])
    for method, runs in by_method.items():
        pairs = {seed: (run, base[seed]) for seed, run in runs.items() if seed in base}
        for site in sorted({name for run, _ in pairs.values() for name in run.sites}):
            alike = _alike(pairs, site, " ".join(filter(None, (*place, site))), notices)
            if not alike:
                continue
            figures = [
                paired_site((run.sites[site], other.sites[site]), (run.facts, other.facts))
                for run, other in alike.values()
            ]
            shown = next(iter(alike.values()))[0].sites[site]
            names = (*place, site, method, reference)
            counts = (len(shown.names), shown.support.n_groups, shown.support.few())
            for key in (key for key in figures[0] if all(key in its for its in figures)):
                mean = mean_of_models([its[key] for its in figures], shown.table)
                yield MethodDifference(*names, tuple(alike), *counts, key, mean)


def _alike(pairs: Mapping[str, Pair], site: str, where: str, notices: list[str]) -> dict[str, Pair]:
    """The seeds whose two models were measured at the site on the patches of the first such seed, and may be told."""
    there = {seed: pair for seed, pair in pairs.items() if all(site in run.sites for run in pair)}
    if not there:
        return {}
    first, (shown, *_) = next(iter(there)), (run.sites[site] for run in next(iter(there.values())))
    if any(shown.support.n_groups < run.sites[site].min_count for pair in there.values() for run in pair):
        notices.append(f"{where}: withheld, for too few patients.")
        return {}
    alike = {
        seed: pair
        for seed, pair in there.items()
        if all(shown.same_patches(run.sites[site]) for run in pair)
        and list(pair[0].facts["classes"]) == list(pair[1].facts["classes"])
    }
    if others := [seed for seed in there if seed not in alike]:
        notices.append(f"{where}: seeds {', '.join(others)} test other patches than seed {first}; they do not count.")
    return alike


def tables(differences: Sequence[MethodDifference]) -> Iterator[tuple[str, list[list[str]]]]:
    """The AUROCs for people: a title and rows of `SHOWN` for each partition and fold."""
    shown = [its for its in differences if its.key == "auroc"]
    for place in dict.fromkeys((its.partition, its.fold) for its in shown):
        title = " without ".join(filter(None, place)) or "held-out sites"
        yield title, [_cells(its) for its in shown if (its.partition, its.fold) == place]


def _cells(its: MethodDifference) -> list[str]:
    ends = its.figure.interval()
    moved = f"{its.figure.difference:+.3f}" + (f" {format_bounds(ends, '+.3f')}" if ends else "")
    few = " too few groups" if its.few else ""
    counts = [str(len(its.seeds)), str(its.groups)]
    return [its.site, its.method, *counts, f"{its.figure.one:.3f}", f"{its.figure.other:.3f}", moved + few]
