"""What a site computes from the logits of a split, by the kind of request: figures, or sums that merge."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medfl.data.patch_store import PatchStore
from medfl.messages import HistogramRequest, MeasureRequest, Metrics, Request, TemperatureRequest
from medfl.metrics.histograms import score_histograms
from medfl.metrics.measure import measure
from medfl.metrics.site_figures import SiteMeasurement, site_figures
from medfl.metrics.targets import target_scores, target_truth
from medfl.metrics.temperature import temperature_sums
from medfl.seeds import seed_for
from medfl.site.shared_model import LocalTrainingConfig


class Measurement:
    """The measuring side of one site.

    Args:
        store: its patches.
        classes: names of the classes, in the order of the logits.
        training: states the run's seed and the bins of calibration figures.
    """

    def __init__(self, store: PatchStore, classes: tuple[str, ...], training: LocalTrainingConfig) -> None:
        self.store = store
        self.classes = classes
        self.training = training

    def sums(self, request: TemperatureRequest | HistogramRequest, split: str, logits: Tensor) -> Metrics:
        """What temperature and thresholds are chosen by, of logits f64[n, C] of a split."""
        labels = self.store.labels[self.store.splits[split]]
        if isinstance(request, TemperatureRequest):
            return {"temperatures": temperature_sums(logits.numpy(), labels, request.temperatures).to_lists()}
        scores = target_scores(probabilities(logits, request.temperature), self.classes, request.malignant)
        truth = target_truth(labels, self.classes, request.malignant)
        return {"histograms": score_histograms(scores, truth).to_lists()}

    def figures(self, request: Request, split: str, logits: Tensor, personal: bool = False) -> SiteMeasurement:
        """What the final measurement asks for; in a round, and of a personal model, the figures at temperature 1."""
        rows = self.store.splits[split]
        data: dict[str, Any] = {
            "labels": self.store.labels[rows],
            "groups": self.store.groups[rows],
            "classes": self.classes,
            "resamples": request.resamples if isinstance(request, MeasureRequest) else 0,
            "seed": seed_for(self.training.seed, "bootstrap", self.store.site, split),
            "bins": self.training.bins,
        }
        plain = probabilities(logits)
        if personal or not isinstance(request, MeasureRequest):
            return SiteMeasurement(measure(plain, **data), {}, {})
        calibrated = probabilities(logits, request.temperature)
        return site_figures(calibrated, plain, **data, malignant=request.malignant, thresholds=request.thresholds)


def probabilities(logits: Tensor, temperature: float | None = None) -> NDArray[np.float64]:
    """softmax(logits / T) f64[n, C]; no temperature is T = 1."""
    return (logits / (temperature or 1.0)).softmax(1).numpy()
