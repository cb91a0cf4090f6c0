"""What a site computes from the logits of a split, by the kind of request: figures, or sums that merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medfl.data.bag_store import SiteStore
from medfl.messages import HistogramRequest, MeasureRequest, Metrics, Request, TemperatureRequest
from medfl.metrics.measure import measure, reliability
from medfl.metrics.site_figures import SiteMeasurement, site_figures
from medfl.metrics.small_cells import SmallCells
from medfl.metrics.targets import target_scores
from medfl.metrics.temperature import temperature_sums
from medfl.seeds import seed_for
from medfl.site.shared_model import LocalTrainingConfig

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

    def sums(self, request: TemperatureRequest | HistogramRequest, split: str, logits: Tensor) -> Metrics:
        """What temperature and thresholds are chosen by, of logits f64[n, C] of a split."""
        rows, logits = self._disclosable(split, logits)
        labels = self.store.labels[rows]
        if isinstance(request, TemperatureRequest):
            sums = temperature_sums(logits.numpy(), labels, request.temperatures, self.store.groups[rows])
            return {"temperatures": sums.to_lists()}
        scores = target_scores(probabilities(logits, request.temperature), self.classes, request.malignant)
        return {"histograms": self._cells(rows, request.malignant).histograms(scores, BELOW).to_lists()}

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
        else:
            data |= {"malignant": request.malignant, "thresholds": request.thresholds}
            calibrated = probabilities(logits, request.temperature)
            made = site_figures(calibrated, plain, **data, min_count=self.training.min_count)
        if not self.enough(self.store.splits[split]):
            made.figures["withheld"] = {"min_count": self.training.min_count, "all": True, "classes": []}
        return made

    def enough(self, rows: NDArray[np.int64]) -> bool:
        """Whether anything may be told of these rows: they are of enough source groups, or none."""
        return not len(rows) or self._cells(rows).enough

    def _disclosable(self, split: str, logits: Tensor) -> tuple[NDArray[np.int64], Tensor]:
        """Rows and logits of a split; none where they are of too few source groups."""
        rows = self.store.splits[split]
        return (rows, logits) if self.enough(rows) else (rows[:0], logits[:0])

    def _cells(self, rows: NDArray[np.int64], malignant: Sequence[str] = ()) -> SmallCells:
        labels, groups = self.store.labels[rows], self.store.groups[rows]
        return SmallCells(self.training.min_count, labels, groups, self.classes, malignant)


def probabilities(logits: Tensor, temperature: float | None = None) -> NDArray[np.float64]:
    """softmax(logits / T) f64[n, C]; no temperature is T = 1."""
    return (logits / (temperature or 1.0)).softmax(1).numpy()
