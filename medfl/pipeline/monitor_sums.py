"""The sums of one monitored site: all that it would send, and how they are read where sites are looked at together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medfl.errors import MedflError
from medfl.metrics.calibration import ScoreSums
from medfl.metrics.drift import LEAST_GROUPS, Moments
from medfl.metrics.figure_checks import count, listed, maybe, record, score_sums_check
from medfl.metrics.measure import measure
from medfl.metrics.monitored import from_lists, group_moments, merged, moments_check, to_lists
from medfl.metrics.prevalence import PredictedCounts
from medfl.metrics.small_cells import SmallCells
from medfl.pipeline.monitored_patches import MonitoredPatches
from medfl.plain_text import printable
from medfl.runs.records import read_json

BINS = 15
RESAMPLES = 1000
CALIBRATION = ("n", "n_groups", "ece", "ece_ci", "debiased_ece", "nll", "nll_ci", "accuracy")
LONGEST_NAME = 100


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

    @classmethod
    def from_lists(cls, lists: Any, classes: Sequence[str]) -> MonitorSums:
        """The inverse of `to_lists`. Raises ValueError for what a model of these classes does not give."""
        size = len(classes)
        called = {"groups": count, "counts": listed(count, size), "products": listed(listed(_product, size), size)}
        record(
            {
                "patches": count,
                "labelled": count,
                "moments": moments_check(classes),
                "predicted": record(called),
                "scores": maybe(score_sums_check(size, BINS)),
            }
        )(lists, "sums")
        predicted = PredictedCounts(
            lists["predicted"]["groups"],
            *(np.array(lists["predicted"][key], dtype=np.int64) for key in ("counts", "products")),
        )
        moments = from_lists(lists["moments"], classes)
        scores = ScoreSums.from_lists(lists["scores"]) if lists["scores"] else None
        made = cls(lists["patches"], lists["labelled"], moments, predicted, scores)
        made._check()
        return made

    def _check(self) -> None:
        """Raises ValueError where the parts are not of one and the same patches."""
        groups, products = self.predicted.groups, self.predicted.products
        if int(self.predicted.counts.sum()) != self.patches or groups < LEAST_GROUPS or self.patches < groups:
            raise ValueError(
                f"`predicted` has {int(self.predicted.counts.sum())} patches of {groups} source groups, and `patches` "
                f"is {self.patches}"
            )
        if not (products == products.T).all() or not self.patches**2 / groups <= int(products.sum()) <= self.patches**2:
            raise ValueError("`predicted.products` are not those of its counts")
        if self.labelled > self.patches or any(own.groups > groups for own in self.moments.values()):
            raise ValueError("`labelled` or `moments` has more than there is")
        if self.scores and round(float(self.scores.patches())) != self.labelled:
            raise ValueError(f"`scores` is not of the {self.labelled} patches with a label")


def _product(value: Any, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 10**18:
        raise ValueError(f"`{where}` must be a whole number from 0 to 1e18")


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


def same_model(said: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether a file of sums, or a monitor.json, is of this very model."""
    return said.get("fingerprint") == facts["fingerprint"] and said.get("weights") == facts.get("weights")


def read_sums(file: Path, facts: Mapping[str, Any]) -> dict[str, MonitorSums]:
    """The sums by site in a sums.json, or in a monitor.json, of the model of these facts. Raises MedflError."""
    said, classes, site = read_json(file), facts["classes"], None
    if not same_model(said, facts):
        raise MedflError(f"--sums: {file} is of another model; ask the site to monitor this one")
    sums = {}
    try:
        if said.get("classes") != classes or not isinstance(said.get("sites"), dict) or not said["sites"]:
            raise ValueError("it has no sites, or other classes")
        for site, entry in said["sites"].items():
            if not 0 < len(site) <= LONGEST_NAME or printable(site, LONGEST_NAME) != site:
                raise ValueError("a site's name is too long, or cannot be shown")
            sums[site] = MonitorSums.from_lists(entry["sums"], classes)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        place = f"{file}, site {site}" if site else str(file)
        raise MedflError(
            f"--sums: {place}: these are no sums of monitoring ({error}); take the file as written"
        ) from None
    return sums
