"""Slides and patients: how the probabilities of their patches become one score each, and which class each is of.

A score is the mean of the probabilities of all patches, or of the k that look most malignant. The class of a slide or
patient is that of its patches; where these are of several, its malignant ones decide. docs/metrics.md gives the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfl.metrics.auroc import BoolArray, FloatArray, IndexArray, IntArray
from medfl.metrics.histograms import ScoreHistograms
from medfl.metrics.site_figures import SiteMeasurement, pooled, site_figures
from medfl.metrics.small_cells import SmallCells
from medfl.metrics.targets import MALIGNANT, target_scores

UNITS = {"slides": "slide", "patients": "patient"}
"""Key in figures and messages -> what one is called."""
SHOWN = ("auroc", "balanced_accuracy", "ece", "nll")
"""Figures that tables for people show per slide and patient; all of them stand in `summary.json`."""
NO_CLASS = -1
MIXED = "mixed"
"""Why there are no figures: patches of a slide or patient are of several classes, and none is known to be malignant."""


@dataclass(frozen=True)
class Units:
    """The slides, or the patients, of some patches of a site.

    Attributes:
        of_patch: the slide or patient of each patch [N], 0 to U - 1.
        numbers: what numbers each of them at the site, [U].
        groups: patient (source group) of each, [U].
        labels: class of each i64[U], `NO_CLASS` where its patches do not agree and nothing decides.
        classes: names of the C classes; malignant: those that are.
        top: how many patches stand for one, the most malignant ones; 0 for all.
    """

    of_patch: IndexArray
    numbers: IntArray
    groups: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    malignant: tuple[str, ...] = ()
    top: int = 0

    @property
    def sizes(self) -> IndexArray:
        """Patches of each, [U]."""
        return np.bincount(self.of_patch, minlength=len(self.numbers))

    @property
    def labelled(self) -> bool:
        """Whether each is of a class."""
        return bool((self.labels != NO_CLASS).all())

    def scores(self, probs: FloatArray) -> FloatArray:
        """Probabilities f64[U, C] from those of patches [N, C]. Rows sum to 1."""
        rows = np.arange(len(probs)) if not self.top else self._most_malignant(probs)
        unit, counts = self.of_patch[rows], np.minimum(self.sizes, self.top or len(probs))
        # One sum after another in the order of patches: its last bit depends on nothing else.
        sums = [np.bincount(unit, probs[rows, c], minlength=len(self.numbers)) for c in range(probs.shape[1])]
        return np.stack(sums, axis=1) / counts[:, None]

    def _most_malignant(self, probs: FloatArray) -> IndexArray:
        """The `top` patches of each, or all where it has fewer; equal ones as they come."""
        suspicion = probs[:, _among(self.classes, self.malignant)].sum(axis=1)
        order = np.lexsort((-suspicion, self.of_patch))
        first = np.cumsum(self.sizes) - self.sizes
        rank = np.arange(len(order)) - first[self.of_patch[order]]
        return np.sort(order[rank < self.top])

    def measured(
        self,
        probs: FloatArray,
        before: FloatArray,
        *,
        thresholds: Mapping[str, float] | None,
        resamples: int,
        seed: int,
        bins: int,
        min_count: int,
    ) -> SiteMeasurement:
        """`site_figures` of the scores, each slide or patient counting once; intervals and small cells go by patients.
        Without its diagrams and curves, and empty with the reason as `left_out` where not each is of a class.

        Args:
            probs, before: probabilities of patches [N, C], calibrated and as the network gives them.
            thresholds, resamples, seed, bins, min_count: as for `site_figures`.
        """
        chosen = slice(None) if self.labelled else slice(0)
        own = site_figures(
            self.scores(probs)[chosen],
            self.scores(before)[chosen],
            self.labels[chosen],
            self.groups[chosen],
            self.classes,
            malignant=self.malignant,
            thresholds=thresholds,
            resamples=resamples,
            seed=seed,
            bins=bins,
            min_count=min_count,
        )
        figures = {key: value for key, value in own.figures.items() if not key.startswith("reliability")}
        return SiteMeasurement(figures if self.labelled else figures | {"left_out": MIXED}, own.sums, {})

    def histograms(self, probs: FloatArray, min_count: int, deviations: float) -> ScoreHistograms:
        """Histograms of the scores for every target, as `SmallCells.histograms` has them; empty where not each is of a
        class."""
        chosen = slice(None) if self.labelled else slice(0)
        cells = SmallCells(min_count, self.labels[chosen], self.groups[chosen], self.classes, self.malignant)
        return cells.histograms(target_scores(self.scores(probs)[chosen], self.classes, self.malignant), deviations)


def units_of(
    labels: IntArray,
    groups: IntArray,
    slides: IntArray | None,
    classes: Sequence[str],
    malignant: Sequence[str] = (),
    top: int = 0,
) -> dict[str, Units]:
    """The slides and the patients of some patches, by their key in `UNITS`; without those of which each has one patch,
    whose figures would be those of patches.

    Args:
        labels, groups: class and source group of each patch [N].
        slides: slide of each patch [N]; None where patches are not of slides, or are slides themselves.
        classes, malignant, top: as in `Units`; without malignant classes all patches count alike.
    """
    made: dict[str, Units] = {}
    for key, given in (("slides", slides), ("patients", groups)):
        if given is None:
            continue
        numbers, first, of_patch = np.unique(given, return_index=True, return_inverse=True)
        if len(numbers) < len(given):
            own = _labels(labels, of_patch, len(numbers), _among(classes, malignant))
            group = np.asarray(groups, dtype=np.int64)[first]
            made[key] = Units(
                of_patch, numbers, group, own, tuple(classes), tuple(malignant), top if len(malignant) else 0
            )
    return made


def unit_entry(entry: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The figures per slide or patient of a site of `summary.json`; those of patches where each is a patient of its
    own, and nothing where there are none."""
    if key in entry:
        own: Mapping[str, Any] = entry[key]
        return own
    return entry if key == "patients" and entry.get("n") and entry["n"] == entry["n_groups"] else {}


def units_in(sites: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The keys of `UNITS` of which some site of `summary.json` has figures."""
    return [key for key in UNITS if any(key in entry for entry in sites.values())]


def units_shown(sites: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The same for people: without slides where each is of a patient of its own, whose figures are the patients'."""
    keys = units_in(sites)
    several = any(entry["slides"]["n"] != entry["slides"]["n_groups"] for entry in sites.values() if "slides" in entry)
    return keys if several or "patients" not in keys else ["patients"]


def unit_sites(sites: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """Site -> its role and its figures per slide or patient, of the sites that have some."""
    entries = {name: unit_entry(entry, key) for name, entry in sites.items()}
    return {name: {**entry, "role": sites[name]["role"]} for name, entry in entries.items() if entry}


def pooled_units(
    sites: Mapping[str, Mapping[str, Any]], sums: Mapping[str, Mapping[str, Any]], classes: Sequence[str]
) -> dict[str, Any]:
    """Figures of all slides, and of all patients, of some sites together, by their key in `UNITS`; sites that have none
    are not among their `sites`, and a key that no site has is left out.

    Args:
        sites, sums: entries of `summary.json`, and the `sums` of each site's `SiteMeasurement`.
        classes: C names.
    """
    made = {}
    for key in units_in(sites):
        parts = {}
        for name, entry in sites.items():
            own = unit_entry(entry, key)
            if own.get("n") and name in sums and (part := sums[name].get(key) if key in entry else sums[name]):
                parts[name] = part
        if parts:
            made[key] = pooled(parts, classes)
    return made


def unit_notes(sites: Mapping[str, Mapping[str, Any]], key: str) -> list[str]:
    """Why there are no figures per slide or patient where there could be, in a sentence."""
    mixed = [name for name, entry in sorted(sites.items()) if unit_entry(entry, key).get("left_out") == MIXED]
    if not mixed:
        return []
    return [
        f"No figures per {UNITS[key]} at {', '.join(mixed)}: patches of one {UNITS[key]} are of several classes there; "
        f"name those that decide under `task.malignant`"
    ]


def shown_points(entry: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The operating points that tables show of slides or patients: that of what is malignant, or all without it."""
    points: Mapping[str, Mapping[str, Any]] = entry.get("operating") or {}
    return {key: point for key, point in points.items() if key == MALIGNANT or MALIGNANT not in points}


def _among(classes: Sequence[str], some: Sequence[str]) -> BoolArray:
    return np.array([name in some for name in classes], dtype=bool)


def _labels(labels: IntArray, unit: IndexArray, n_units: int, malignant: BoolArray) -> NDArray[np.int64]:
    """The class [U] of all patches of each; where they differ, the one that most of its malignant patches are of, of
    most of its patches where none is malignant, and `NO_CLASS` where malignant bool[C] names none."""
    n_classes = len(malignant)
    counts = np.bincount(unit * n_classes + labels, minlength=n_units * n_classes).reshape(n_units, n_classes)
    suspicious = counts * malignant
    deciding = np.where(suspicious.sum(axis=1, keepdims=True) > 0, suspicious, counts)
    undecided = (np.count_nonzero(counts, axis=1) > 1) & (not malignant.any())
    return np.where(undecided, NO_CLASS, deciding.argmax(axis=1)).astype(np.int64)
