"""A model watched after deployment: sums of each site alone, then what they say, alone and together.

Sums (`monitor_sums`) are all that a site would send; everything here is made of sums, of this machine's patches or of
files that sites sent.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from medfl.errors import MedflError
from medfl.metrics.drift import LEVEL, Moments, Shift, between_shift, shift, stratified_shift
from medfl.metrics.figures import finite
from medfl.metrics.monitored import GAP, TOGETHER
from medfl.metrics.prevalence import PredictedCounts, corrected_prevalence
from medfl.pipeline.monitor_reference import MonitorReference, monitor_reference
from medfl.pipeline.monitor_sums import MonitorSums, read_sums, site_sums
from medfl.pipeline.monitored_patches import monitored_patches
from medfl.pipeline.trained_model import TrainedModel

NO_REFERENCE = (
    "nothing to compare with: the model was trained without `evaluation.monitoring`; give this monitor.json as "
    "--baseline next time"
)


@dataclass(frozen=True)
class SumsOrigin:
    """What is known of a site's sums beside them.

    Attributes:
        figures: of its patches with a label, with intervals; None where only sums are known, or too few.
        notes: what to know of them, in sentences.
    """

    figures: dict[str, Any] | None
    notes: Sequence[str]


def monitor(
    model: TrainedModel,
    sites: Sequence[str],
    pipeline_file: str | None = None,
    baseline: Path | None = None,
    files: Sequence[Path] = (),
) -> dict[str, Any]:
    """`medfl monitor`: monitor.json.

    Args:
        model: as deployed.
        sites: site files, or folders of images without labels; each is looked at alone, and all of them together.
        pipeline_file: how patches are rendered, where the run is not on this machine.
        baseline: an earlier monitor.json to compare with in place of the run.
        files: sums.json or monitor.json of further sites, whose patches are not seen here.

    Raises:
        MedflError: as `monitored_patches`, `monitor_reference` and `read_sums`; two sites of one name, or none.
    """
    if not sites and not files:
        raise MedflError("medfl monitor: name a site's patches with --site, or what sites sent with --sums")
    reference, classes = monitor_reference(model, baseline), model.facts["classes"]
    sums: dict[str, MonitorSums] = {}
    origins: dict[str, SumsOrigin] = {}

    def take(site: str, place: str, own: MonitorSums, origin: SumsOrigin) -> None:
        if site in sums or site == TOGETHER:
            raise MedflError(f"{place}: two sites are called {site}; give one of them another name")
        sums[site], origins[site] = own, origin

    for file in files:  # before any patch is scored
        for site, own in read_sums(file, model.facts).items():
            take(
                site,
                str(file),
                own,
                SumsOrigin(None, [f"only its sums are known here, from {file.name}"]),
            )
    for place in sites:
        new = monitored_patches(model, place, pipeline_file)
        own, figures = site_sums(new, classes)
        take(new.site, place, own, SumsOrigin(figures, new.notes))
    result = judged(sums, reference, classes)
    for site, origin in origins.items():
        entry = result["sites"][site]
        entry |= {"calibration": origin.figures or entry["calibration"], "notes": [*origin.notes, *entry["notes"]]}
    facts = {key: model.facts.get(key) for key in ("run", "fingerprint", "weights", "classes")}
    return {**facts, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **result}


def drift(
    sums: Mapping[str, MonitorSums], reference: MonitorReference, federation: FederationComparison
) -> dict[str, dict[str, Shift]]:
    """By site, and with several sites under `TOGETHER`, each figure that there is something to compare with. The level
    of an alarm is shared by all of them."""
    compared = {
        site: {figure: others for figure in own.moments if (others := reference.of(site, figure))[0]}
        for site, own in sums.items()
    }
    level = LEVEL / max(sum(map(len, compared.values())) + federation.count, 1)
    shifts = {
        site: {
            figure: shift(sums[site].moments[figure], parts, level, between)
            for figure, (parts, between) in figures.items()
        }
        for site, figures in compared.items()
    }
    return shifts | ({TOGETHER: federation.shifts(level)} if len(sums) > 1 else {})


def judged(sums: Mapping[str, MonitorSums], reference: MonitorReference, classes: Sequence[str]) -> dict[str, Any]:
    """What the sums of sites say: class mix and drift of each and of all together, alarms."""
    federation = FederationComparison.of(sums, reference)
    shifts = drift(sums, reference, federation)
    count = sum(map(len, shifts.values()))
    entries: dict[str, dict[str, Any]] = {}
    for site, own in sums.items():
        about = _drift(shifts[site], _compared_with(site, reference), [] if shifts[site] else [NO_REFERENCE])
        entries[site] = _entry(own, [own], reference, classes) | about
    together = None
    if len(sums) > 1:
        whole = reduce(add, sums.values())
        together = _entry(whole, list(sums.values()), reference, classes)
        together |= _drift(shifts[TOGETHER], federation.words(reference), [])
    everything = entries | ({TOGETHER: together} if together else {})
    alarms = [{"site": site, "figure": figure} for site, entry in everything.items() for figure in entry["alarms"]]
    result = {"reference": reference.name, "level": LEVEL, "compared": count, "alarm": bool(alarms), "alarms": alarms}
    return {**result, "sites": entries, "together": together}


@dataclass(frozen=True)
class FederationComparison:
    """What is compared of all sites as one: each with its own patches of the reference, or sites with other sites.

    Attributes:
        own: figure -> (new, reference) of each site that the reference has.
        others: figure -> (new sites, sites of the reference), where they are not the same sites.
        sites: how many sites that is.
    """

    own: Mapping[str, Sequence[tuple[Moments, Moments]]]
    others: Mapping[str, tuple[Sequence[Moments], Sequence[Moments]]]
    sites: int

    @classmethod
    def of(cls, sums: Mapping[str, MonitorSums], reference: MonitorReference) -> FederationComparison:
        """At least two sites of one kind; whatever is left of the other kind is looked at alone only."""
        same = {site: own for site, own in sums.items() if site in reference.sites}
        others = {site: own for site, own in sums.items() if site not in reference.sites}
        figures = dict.fromkeys(figure for own in sums.values() for figure in own.moments)
        if len(same) > 1:
            pairs = {
                figure: [
                    (own.moments[figure], reference.sites[site][figure])
                    for site, own in same.items()
                    if figure in own.moments and figure in reference.sites[site]
                ]
                for figure in figures
            }
            return cls({figure: places for figure, places in pairs.items() if len(places) > 1}, {}, len(same))
        sides = {
            figure: (
                [own.moments[figure] for own in others.values() if figure in own.moments],
                [own[figure] for own in reference.sites.values() if figure in own],
            )
            for figure in figures
        }
        return cls({}, {figure: s for figure, s in sides.items() if min(map(len, s)) > 1}, len(others))

    @property
    def count(self) -> int:
        """Figures compared."""
        return len(self.own) + len(self.others)

    def shifts(self, level: float) -> dict[str, Shift]:
        """By figure, each at this level."""
        same = {figure: stratified_shift(places, level) for figure, places in self.own.items()}
        return same | {figure: between_shift(*sides, level) for figure, sides in self.others.items()}

    def words(self, reference: MonitorReference) -> str:
        """What all together are compared with."""
        if self.own:
            return f"the own patches of {self.sites} sites in {reference.name}, site by site"
        if self.others:
            return (
                f"{len(reference.sites)} sites of {reference.name}, by how those differ; these are {self.sites} others"
            )
        return "nothing: that takes two sites of the reference, or two others beside two of it"


def _entry(
    own: MonitorSums, parts: Sequence[MonitorSums], reference: MonitorReference, classes: Sequence[str]
) -> dict[str, Any]:
    gaps = [part.moments[GAP] for part in parts if GAP in part.moments]
    gap = reduce(add, gaps) if gaps else None
    return {
        "patches": own.patches,
        "groups": own.predicted.groups,
        "labelled": own.labelled,
        "prevalence": prevalence(own.predicted, reference, classes),
        "gap": gap and {"groups": gap.groups, "value": gap.mean, "low": gap.interval[0], "high": gap.interval[1]},
        "calibration": _score_figures(own),
        "sums": own.to_lists(),
    }


def _drift(shifts: Mapping[str, Shift], compared_with: str, notes: list[str]) -> dict[str, Any]:
    return {
        "drift": {figure: asdict(one) for figure, one in shifts.items()},
        "compared_with": compared_with,
        "alarms": [figure for figure, one in shifts.items() if one.alarm],
        "notes": notes,
    }


def _compared_with(site: str, reference: MonitorReference) -> str:
    if not reference.sites:
        return "nothing"
    if site in reference.sites:
        return f"its own patches of {reference.name}"
    several = len(reference.sites)
    if several == 1:
        return f"the one site of {reference.name}, {next(iter(reference.sites))}"
    return f"the {several} sites of {reference.name}, and how they differ among each other"


def _score_figures(own: MonitorSums) -> dict[str, Any] | None:
    """Calibration from sums, without intervals; None where they have none."""
    scores = own.scores
    figures = {"ece": scores.ece(), "debiased_ece": scores.debiased_ece(), "nll": scores.nll()} if scores else {}
    return {key: finite(value) for key, value in figures.items()} or None


def prevalence(predicted: PredictedCounts, reference: MonitorReference, classes: Sequence[str]) -> dict[str, Any]:
    """Class -> share of patches called so, corrected for the model's errors, and its 95 % interval (None where the
    run's test data lack a class)."""
    corrected = corrected_prevalence(predicted, reference.confusion, reference.class_groups)
    columns = [column.tolist() for column in corrected] if corrected else [[None] * len(classes)] * 3
    rows = zip(classes, predicted.shares.tolist(), *columns, strict=True)
    return {
        name: {"called": float(called), "corrected": point, "low": low, "high": high}
        for name, called, point, low, high in rows
    }
