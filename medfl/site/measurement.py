"""What a site computes from the logits of a split, by the kind of request: figures, or sums that merge."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfl.data.bag_store import SiteStore
from medfl.data.group_stain import NO_STAIN, group_stains
from medfl.data.patch_store import PatchStore
from medfl.messages import (
    AdaptRequest,
    HistogramRequest,
    MeasureRequest,
    Metrics,
    Request,
    ScalingRequest,
    TemperatureRequest,
)
from medfl.metrics.logit_calibration import Calibration
from medfl.metrics.measure import measure, reliability
from medfl.metrics.monitored import group_moments, to_lists
from medfl.metrics.site_figures import SiteMeasurement, site_figures
from medfl.metrics.small_cells import SmallCells
from medfl.metrics.subgroups import subgroup_measurement
from medfl.metrics.targets import target_scores
from medfl.metrics.temperature import temperature_sums
from medfl.metrics.units import Units, units_of
from medfl.metrics.vector_scaling import scaling_sums
from medfl.seeds import seed_for
from medfl.site.shared_model import LocalTrainingConfig

OF_CALIBRATION = re.compile(r"(_before|_before_ci|_after|^reliability)$")
"""Figures that compare before and after calibration."""
UNCHANGED = Calibration()
BELOW = 1.0
"""Standard deviations by which a threshold lies below the mean of a cell of positives, most of which it is to hold."""


class Measurement:
    """The measuring side of one site.

    Args:
        store: its patches.
        classes: names of the classes, in the order of the logits.
        training: states the run's seed, the bins of calibration figures, and the least source groups behind a cell.
    """

    def __init__(self, store: SiteStore, classes: tuple[str, ...], training: LocalTrainingConfig) -> None:
        self.store = store
        self.classes = classes
        self.training = training

    def sums(self, request: TemperatureRequest | ScalingRequest, split: str, logits: Tensor) -> Metrics:
        """What a calibration is fitted by, of logits f64[k n, C] of a split's n patches seen through k laboratories, or
        f64[n, C] as they are; a patch counts once. Scales and biases are of single classes, so a class of which the
        site tells no figure has no part in them.
        """
        rows, views = self.store.splits[split], max(1, request.laboratories)
        shown = np.full(len(rows), self.enough(rows))
        if isinstance(request, ScalingRequest):
            shown &= ~np.isin(self.store.labels[rows], self._cells(rows).withheld_classes())
        rows, z = np.tile(rows[shown], views), logits.numpy()[np.tile(shown, views)]
        labels, groups = self.store.labels[rows], self.store.groups[rows]
        patches = len(rows) // views
        if isinstance(request, TemperatureRequest):
            temperatures = temperature_sums(z, labels, request.temperatures, groups)
            return {"temperatures": replace(temperatures.weighted(1 / views), n=patches).to_lists()}
        points = np.reshape(request.points, (-1, 2 * len(self.classes)))
        scaling = scaling_sums(z, labels, points, groups)
        return {"scaling": replace(scaling.weighted(1 / views), n=patches).to_lists()}

    def histograms(self, request: HistogramRequest, split: str, logits: Tensor) -> Metrics:
        """What thresholds are chosen by, of logits f64[n, C] of a split: of patches, and of slides and patients."""
        rows, logits = self._disclosable(split, logits)
        calibration = Calibration(request.temperature or 1.0, request.scale, request.bias)
        probs = probabilities(logits, calibration)
        scores = target_scores(probs, self.classes, request.malignant)
        made = {"histograms": self._cells(rows, request.malignant).histograms(scores, BELOW)}
        units = self._units(rows, request)
        made |= {key: own.histograms(probs, self.training.min_count, BELOW) for key, own in units.items()}
        return {key: histograms.to_lists() for key, histograms in made.items()}

    def figures(self, request: Request, split: str, logits: Tensor, personal: bool = False) -> SiteMeasurement:
        """What the final measurement asks for; in a round, and of a personal model, the figures at temperature 1."""
        rows, logits = self._disclosable(split, logits)
        data: dict[str, Any] = {
            "labels": self.store.labels[rows],
            "groups": self.store.groups[rows],
            "classes": self.classes,
            "resamples": request.resamples if isinstance(request, MeasureRequest) else 0,
            "seed": seed_for(self.training.seed, "bootstrap", self.store.site, split),
            "bins": self.training.bins,
        }
        plain, cells = probabilities(logits), self._cells(rows)
        if personal or not isinstance(request, MeasureRequest):
            measured = measure(plain, **data)
            if "reliability" in measured:
                measured["reliability"] = reliability(cells.sums(plain, self.training.bins))
            made = SiteMeasurement(cells.figures(measured, plain), {}, {})
            if isinstance(request, MeasureRequest):
                made.figures.update(self._plain_units(rows, request, plain, data["seed"]))
        else:
            data |= {"malignant": request.malignant, "thresholds": request.thresholds}
            calibrated = probabilities(logits, Calibration(request.temperature, request.scale, request.bias))
            made = site_figures(calibrated, plain, **data, min_count=self.training.min_count)
            for key, own in self._of_units(rows, request, calibrated, plain, data["seed"]).items():
                made.figures[key], made.sums[key] = own.figures, own.sums
            if self.store.subgroups and len(rows):
                self._add_subgroups(made, rows, request, calibrated, plain, data)
        if not self.enough(self.store.splits[split]):
            made.figures["withheld"] = {"min_count": self.training.min_count, "all": True, "classes": []}
        return made

    def monitored(self, request: MeasureRequest, split: str, logits: Tensor, rendered: SiteStore) -> dict[str, Any]:
        """What later patches are compared with, of logits f64[n, C] of a split; `rendered` is the site's store before
        any normalisation of its stain."""
        rows = self.store.splits[split]
        probs = probabilities(logits, Calibration(request.temperature, request.scale, request.bias))
        labels, groups = self.store.labels[rows], self.store.groups[rows]
        stain = group_stains(rendered.images, rows, groups) if isinstance(rendered, PatchStore) else NO_STAIN
        return to_lists(group_moments(probs, labels, groups, self.classes, stain, self.training.min_count))

    def _of_units(
        self,
        rows: NDArray[np.int64],
        request: MeasureRequest | AdaptRequest,
        probs: NDArray[np.float64],
        before: NDArray[np.float64],
        seed: int,
    ) -> dict[str, SiteMeasurement]:
        """What is told per slide and per patient, where there are several patches of one."""
        settings = {"resamples": request.resamples, "bins": self.training.bins, "min_count": self.training.min_count}
        measured = {}
        for key, units in self._units(rows, request).items():
            thresholds = None if request.thresholds is None else request.unit_thresholds.get(key, {})
            measured[key] = units.measured(probs, before, thresholds=thresholds, seed=seed, **settings)
        return measured

    def _plain_units(
        self, rows: NDArray[np.int64], request: MeasureRequest, probs: NDArray[np.float64], seed: int
    ) -> dict[str, Any]:
        """The figures per slide and per patient of a model that is not calibrated and has no thresholds."""
        own = self._of_units(rows, replace(request, thresholds=None), probs, probs, seed)
        return {key: _plain(made.figures) for key, made in own.items()}

    def _add_subgroups(
        self,
        made: SiteMeasurement,
        rows: NDArray[np.int64],
        request: MeasureRequest,
        probs: NDArray[np.float64],
        before: NDArray[np.float64],
        data: Mapping[str, Any],
    ) -> None:
        """Figures and sums of the subgroups of these rows, beside those of all of them."""

        def measured(part: NDArray[np.bool_]) -> SiteMeasurement:
            own = dict(data) | {"labels": data["labels"][part], "groups": data["groups"][part]}
            return site_figures(probs[part], before[part], **own, min_count=self.training.min_count)

        columns = [column.of(rows) for column in self.store.subgroups]
        figures, sums = subgroup_measurement(columns, self._cells(rows, request.malignant), measured)
        made.figures["subgroups"] = figures
        made.sums["subgroups"] = sums

    def judged(self, request: AdaptRequest, rows: NDArray[np.int64], logits: Tensor) -> dict[str, Any]:
        """Figures of calibrated logits f64[n, C] of some rows of a split, others of which are told of, too: where cells
        of few source groups may not be told, no count is that a difference would give away."""
        rows, probs = (rows, probabilities(logits)) if self.enough(rows) else (rows[:0], probabilities(logits[:0]))
        seed = seed_for(self.training.seed, "bootstrap", self.store.site, *request.splits)
        figures = site_figures(
            probs,
            probs,
            self.store.labels[rows],
            self.store.groups[rows],
            self.classes,
            malignant=request.malignant,
            thresholds=request.thresholds,
            resamples=request.resamples,
            seed=seed,
            bins=self.training.bins,
            min_count=self.training.min_count,
        ).figures
        units = self._of_units(rows, request, probs, probs, seed)
        return self._judged(figures) | {key: self._judged(own.figures) for key, own in units.items()}

    def _judged(self, figures: Metrics) -> dict[str, Any]:
        """Figures without those that compare with before calibration, and without counts where cells are small."""
        kept = {key: value for key, value in figures.items() if not OF_CALIBRATION.search(key)}
        return kept if self.training.min_count <= 1 else kept | _without_counts(kept)

    def enough(self, rows: NDArray[np.int64]) -> bool:
        """Whether anything may be told of these rows: they are of enough source groups, or none."""
        return not len(rows) or self._cells(rows).enough

    def _disclosable(self, split: str, logits: Tensor) -> tuple[NDArray[np.int64], Tensor]:
        """Rows and logits of a split; none where they are of too few source groups."""
        rows = self.store.splits[split]
        return (rows, logits) if self.enough(rows) else (rows[:0], logits[:0])

    def _units(
        self, rows: NDArray[np.int64], request: HistogramRequest | MeasureRequest | AdaptRequest
    ) -> dict[str, Units]:
        return store_units(self.store, rows, self.classes, request.malignant, request.top)

    def _cells(self, rows: NDArray[np.int64], malignant: Sequence[str] = ()) -> SmallCells:
        labels, groups = self.store.labels[rows], self.store.groups[rows]
        return SmallCells(self.training.min_count, labels, groups, self.classes, malignant)


def store_units(
    store: SiteStore, rows: NDArray[np.int64], classes: Sequence[str], malignant: Sequence[str], top: int
) -> dict[str, Units]:
    """The slides and patients of some rows of a store (`medfl.metrics.units`); where its rows are slides, patients."""
    slides = store.slides[rows] if isinstance(store, PatchStore) and store.slides is not None else None
    return units_of(store.labels[rows], store.groups[rows], slides, classes, malignant, top)


def _plain(figures: Metrics) -> dict[str, Any]:
    """Figures without those that need a calibration or thresholds."""
    return {key: value for key, value in figures.items() if key != "operating" and not OF_CALIBRATION.search(key)}


def _without_counts(figures: Metrics) -> dict[str, Any]:
    """The entries of figures that count patches class by class, with nothing in them."""
    return {
        "support": {name: dict.fromkeys(entry) for name, entry in figures["support"].items()},
        "confusion": [[None] * len(row) for row in figures["confusion"]],
        "operating": {
            target: point | dict.fromkeys(("positives", "negatives")) for target, point in figures["operating"].items()
        },
    }


def probabilities(logits: Tensor, calibration: Calibration = UNCHANGED) -> NDArray[np.float64]:
    """Softmax f64[n, C] of calibrated logits f64[n, C]."""
    return torch.from_numpy(calibration.apply(logits.numpy())).softmax(1).numpy()
