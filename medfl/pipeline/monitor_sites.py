"""A model watched after deployment: sums of each site alone, then what they say, alone and together.

`site_sums` is all that a site would send; everything else here is made of sums.
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
from medfl.metrics.calibration import ScoreSums
from medfl.metrics.drift import LEVEL, Moments, shift
from medfl.metrics.figures import finite
from medfl.metrics.measure import measure
from medfl.metrics.monitored import group_moments, merged, to_lists
from medfl.metrics.prevalence import PredictedCounts, corrected_prevalence
from medfl.metrics.small_cells import SmallCells
from medfl.pipeline.monitor_reference import MonitorReference, monitor_reference
from medfl.pipeline.monitored_patches import MonitoredPatches, monitored_patches
from medfl.pipeline.trained_model import TrainedModel

BINS = 15
RESAMPLES = 1000
CALIBRATION = ("n", "n_groups", "ece", "ece_ci", "debiased_ece", "nll", "nll_ci", "accuracy")
NO_REFERENCE = (
    "nothing to compare with: the model was trained without `evaluation.monitoring`; give this monitor.json as "
    "--baseline next time"
)


@dataclass(frozen=True)
class MonitorSums:
    """All that leaves a site: `+` merges two sites' patches.

    Attributes:
        patches, labelled: how many there are, and have a label.
        moments: by figure (`medfl.metrics.monitored`).
        predicted: patches by predicted class.
        scores: of the patches with a label, above the disclosure floor; None where these are of too few source groups.
    """

    patches: int
    labelled: int
    moments: Mapping[str, Moments]
    predicted: PredictedCounts
    scores: ScoreSums | None

    def __add__(self, other: MonitorSums) -> MonitorSums:
        scores = self.scores + other.scores if self.scores and other.scores else self.scores or other.scores
        return MonitorSums(
            self.patches + other.patches,
            self.labelled + other.labelled,
            merged([self.moments, other.moments]),
            self.predicted + other.predicted,
            scores,
        )

    def to_lists(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return {
            "patches": self.patches,
            "labelled": self.labelled,
            "moments": to_lists(self.moments),
            "predicted": self.predicted.to_lists(),
            "scores": self.scores and self.scores.to_lists(),
        }


def site_sums(new: MonitoredPatches, classes: Sequence[str]) -> tuple[MonitorSums, dict[str, Any] | None]:
    """What a site tells of its new patches: sums that merge, and, of those with a label, figures with intervals."""
    rows = new.labels >= 0
    moments = group_moments(new.probs, new.labels, new.groups, classes, new.stain, new.min_count)
    predicted = PredictedCounts.of(new.probs.argmax(axis=1), new.groups, len(classes))
    cells = SmallCells(new.min_count, new.labels[rows], new.groups[rows], classes)
    labelled, enough = int(rows.sum()), bool(rows.any()) and cells.enough
    scores = cells.sums(new.probs[rows], BINS) if enough else None
    figures = None
    if enough:
        data = new.probs[rows], new.labels[rows], new.groups[rows], classes
        figures = {
            key: value for key, value in measure(*data, resamples=RESAMPLES, bins=BINS).items() if key in CALIBRATION
        }
    return MonitorSums(len(new.groups), labelled, moments, predicted, scores), figures


def monitor(
    model: TrainedModel, sites: Sequence[str], pipeline_file: str | None = None, baseline: Path | None = None
) -> dict[str, Any]:
    """`medfl monitor`: monitor.json.

    Args:
        model: as deployed.
        sites: site files, or folders of images without labels; each is looked at alone.
        pipeline_file: how patches are rendered, where the run is not on this machine.
        baseline: an earlier monitor.json to compare with in place of the run.

    Raises:
        MedflError: as `monitored_patches` and `monitor_reference`; two sites of one name.
    """
    reference, classes = monitor_reference(model, baseline), model.facts["classes"]
    parts: dict[str, tuple[MonitorSums, dict[str, Any] | None, Sequence[str]]] = {}
    for site in sites:
        new = monitored_patches(model, site, pipeline_file)
        if new.site in parts:
            raise MedflError(f"{site}: two sites are called {new.site}; give one of them another name")
        parts[new.site] = (*site_sums(new, classes), new.notes)
    sums = {site: own for site, (own, _, _) in parts.items()}
    result = judged(sums, reference, classes)
    for site, (_, figures, notes) in parts.items():
        result["sites"][site] |= {"calibration": figures, "notes": [*notes, *result["sites"][site]["notes"]]}
    facts = {key: model.facts.get(key) for key in ("run", "fingerprint", "weights", "classes")}
    return {**facts, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **result}


def judged(sums: Mapping[str, MonitorSums], reference: MonitorReference, classes: Sequence[str]) -> dict[str, Any]:
    """What the sums of sites say: class mix and drift of each, figures of all together, alarms. The level of an alarm
    is shared by all figures of all sites that are compared."""
    compared = {
        site: {figure: reference.of(site, figure) for figure in own.moments if reference.of(site, figure)[0]}
        for site, own in sums.items()
    }
    count = sum(map(len, compared.values()))
    level = LEVEL / max(count, 1)
    entries: dict[str, dict[str, Any]] = {}
    for site, own in sums.items():
        shifts = {
            figure: shift(own.moments[figure], parts, level, between)
            for figure, (parts, between) in compared[site].items()
        }
        entry = {"patches": own.patches, "groups": own.predicted.groups, "labelled": own.labelled}
        entries[site] = {
            **entry,
            "prevalence": prevalence(own.predicted, reference, classes),
            "drift": {figure: asdict(one) for figure, one in shifts.items()},
            "compared_with": _compared_with(site, reference),
            "alarms": [figure for figure, one in shifts.items() if one.alarm],
            "notes": [] if shifts else [NO_REFERENCE],
            "sums": own.to_lists(),
        }
    alarms = [{"site": site, "figure": figure} for site, entry in entries.items() for figure in entry["alarms"]]
    result = {
        "reference": reference.name,
        "level": LEVEL,
        "compared": count,
        "alarm": bool(alarms),
        "alarms": alarms,
    }
    return {**result, "sites": entries, "together": together(list(sums.values()), reference, classes)}


def _compared_with(site: str, reference: MonitorReference) -> str:
    if not reference.sites:
        return "nothing"
    if site in reference.sites:
        return f"its own patches of {reference.name}"
    several = len(reference.sites)
    if several == 1:
        return f"the one site of {reference.name}, {next(iter(reference.sites))}"
    return f"the {several} sites of {reference.name}, and how they differ among each other"


def together(sums: Sequence[MonitorSums], reference: MonitorReference, classes: Sequence[str]) -> dict[str, Any] | None:
    """Figures of several sites' patches together; None of one site."""
    if len(sums) < 2:
        return None
    whole = reduce(add, sums)
    scores = whole.scores
    figures = {"ece": scores.ece(), "debiased_ece": scores.debiased_ece(), "nll": scores.nll()} if scores else {}
    return {
        "patches": whole.patches,
        "groups": whole.predicted.groups,
        "labelled": whole.labelled,
        "prevalence": prevalence(whole.predicted, reference, classes),
        "calibration": {key: finite(value) for key, value in figures.items()} or None,
        "sums": whole.to_lists(),
    }


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
