"""The closing measurement, once a round is chosen: calibrate -> thresholds -> test.

Temperature and thresholds are chosen on validation data of training sites, from sums; only then is test data touched,
in one message a site. What passes is described in `medfl.messages`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
from torch import Tensor

from medfl import config
from medfl.messages import Failure, HistogramRequest, MeasureRequest, Reply, Request, ScalingRequest, TemperatureRequest
from medfl.metrics.histograms import sum_histograms
from medfl.metrics.logit_calibration import Calibration
from medfl.metrics.record_types import FailureRecord, Role, SiteResult
from medfl.metrics.site_weights import Sums, pooled_sums
from medfl.metrics.targets import targets
from medfl.metrics.temperature import TemperatureFit, TemperatureSums, fit_temperature, temperature_sums
from medfl.metrics.units import UNITS
from medfl.metrics.vector_scaling import ScalingFit, ScalingSums, fit_scaling, scaling_sums
from medfl.pipeline.malignancy import malignant_classes
from medfl.pipeline.prepare import RunSetup

Lost = Sequence[FailureRecord]


@dataclass(frozen=True)
class SelectedModel:
    """The model that counts: round, wire vectors, the last round accepted from each site, and the stain that patches
    are brought to (`medfl.data.normalise`), none where they stay as they are."""

    round: int
    weights: Tensor
    buffers: Tensor
    accepted: Mapping[str, int] = field(default_factory=dict)
    stain_reference: tuple[float, ...] = ()


@dataclass(frozen=True)
class Tuning:
    """What validation data decided.

    Attributes:
        calibration: what logits go through; None where nothing was calibrated.
        fit: how it was fitted, `calibration` of summary.json; None where nothing was.
        thresholds: target -> score from which a patch is called positive; a target that no validation patch belongs to
            is left out. None where none were chosen.
        unit_thresholds: the same of slides and of patients, by the keys of `medfl.metrics.units.UNITS`.
        operating: that part of summary.json, or None.
        failures: sites that did not answer.
    """

    calibration: Calibration | None = None
    fit: dict[str, Any] | None = None
    thresholds: dict[str, float] | None = None
    unit_thresholds: Mapping[str, dict[str, float]] = field(default_factory=dict)
    operating: dict[str, Any] | None = None
    failures: Lost = ()

    @property
    def temperature(self) -> float | None:
        """T; None without one, also with scales and biases in its place."""
        return None if self.calibration is None or self.calibration.scale else self.calibration.temperature


@dataclass(frozen=True)
class Measured:
    """Test data of sites: by site the entry of summary.json, the sums that merge and the entry of curves.json."""

    sites: dict[str, SiteResult] = field(default_factory=dict)
    sums: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: Lost = ()

    def add(self, reply: Reply, role: Role) -> None:
        """Take a site's reply in; models that a method keeps at the site come along as `models`."""
        own = {split[5:]: dict(figures) for split, figures in reply.metrics.items() if split.startswith("test_")}
        entry = {"role": role, **reply.metrics["test"], **({"models": own} if own else {})}
        self.sites[reply.site] = cast(SiteResult, entry)
        self.sums[reply.site] = reply.sums["test"]
        self.curves[reply.site] = {"role": role, **reply.curves["test"]}


def tune(prepared: RunSetup, chosen: SelectedModel) -> Tuning:
    """Calibration and thresholds from the validation data of all training sites."""
    tuned = calibrate(prepared, chosen, prepared.config.train_sites)
    classes, malignant = prepared.pipeline.task.classes, malignant_classes(prepared.pipeline.task)
    lost: dict[str, str] = {}
    own = tuned.calibration or Calibration()
    question = partial(
        HistogramRequest,
        splits=("val",),
        temperature=tuned.temperature,
        scale=own.scale,
        bias=own.bias,
        malignant=malignant,
        top=prepared.pipeline.evaluation.top,
    )
    sums = [reply.sums["val"] for reply in answers(prepared, chosen, prepared.config.train_sites, lost, question)]
    failures = (*tuned.failures, *(failure for failure in named(lost) if failure not in tuned.failures))
    if not sums:
        return replace(tuned, failures=failures)
    wanted = prepared.pipeline.evaluation.sensitivity
    patches, thresholds = _thresholds([part["histograms"] for part in sums], wanted, targets(classes, malignant))
    operating: dict[str, Any] = {"sensitivity": wanted, "patches": patches, "thresholds": thresholds}
    by_unit: dict[str, dict[str, float]] = {}
    for key in UNITS:
        parts = _unit_histograms(sums, key)
        if parts:
            count, by_unit[key] = _thresholds(parts, wanted, targets(classes, malignant))
            operating[key] = {"count": count, "thresholds": by_unit[key]}
    return replace(
        tuned,
        thresholds=thresholds,
        unit_thresholds=by_unit,
        operating=operating if patches else None,
        failures=failures,
    )


def _unit_histograms(sums: Sequence[Mapping[str, Any]], key: str) -> list[Mapping[str, Any]]:
    """The histograms of the slides or patients of every site that has them; at a site where each patch is a patient of
    its own, those of patches. None where no site has several patches of one."""
    if not any(key in part for part in sums):
        return []
    return [part.get(key, part["histograms"]) for part in sums if key in part or key == "patients"]


def _thresholds(
    parts: Sequence[Mapping[str, Any]], wanted: float, names: Sequence[str]
) -> tuple[int, dict[str, float]]:
    """How many scores these histograms count together, and target -> threshold for the wanted sensitivity."""
    pooled = sum_histograms(parts)
    values = zip(names, pooled.threshold(wanted).tolist(), strict=True)
    count = int((pooled.positive + pooled.negative).sum(axis=-1).max())
    return count, {name: value for name, value in values if not math.isnan(value)}


def calibrate(prepared: RunSetup, chosen: SelectedModel, names: Collection[str], failures: Lost = ()) -> Tuning:
    """The calibration fitted to the validation data of these sites, without thresholds.

    All messages of a fit must reach the same sites, so where one fails the fit starts over without it.
    """
    wanted = prepared.pipeline.evaluation.fit
    if wanted is None:
        return Tuning()
    fitting = _FitMessages(prepared, chosen, names, wanted)
    one = fit_temperature(fitting.at_temperatures)
    fit: TemperatureFit | ScalingFit = one
    if wanted.method == "vector" and not fitting.lost:
        fit = fit_scaling(fitting.at_points, len(prepared.pipeline.task.classes), one.temperature)
    if lost := fitting.lost:
        return calibrate(prepared, chosen, [n for n in names if n not in lost], (*failures, *named(lost)))
    if fit.patches == 0:
        return Tuning(failures=failures)
    return Tuning(fit.calibration, _fit_record(fit, wanted, one.temperature, fitting.patches), failures=failures)


@dataclass
class _FitMessages:
    """What a fit asks of the sites: their sums together, each as loud as the pipeline says; who failed in `lost`, and
    how many patches each has in `patches`."""

    prepared: RunSetup
    chosen: SelectedModel
    names: Collection[str]
    wanted: config.CalibrationFit
    lost: dict[str, str] = field(default_factory=dict)
    patches: dict[str, int] = field(default_factory=dict)

    def at_temperatures(self, values: tuple[float, ...]) -> TemperatureSums:
        """The sums at each of these temperatures."""
        none = temperature_sums(np.empty((0, 1)), np.empty(0, dtype=np.int64), values)
        return self._pooled(partial(TemperatureRequest, temperatures=values), "temperatures", none)

    def at_points(self, points: tuple[tuple[float, ...], ...]) -> ScalingSums:
        """The sums at each of these scales and biases."""
        classes = len(self.prepared.pipeline.task.classes)
        none = scaling_sums(np.empty((0, classes)), np.empty(0, dtype=np.int64), points)
        flat = tuple(value for point in points for value in point)
        return self._pooled(partial(ScalingRequest, points=flat), "scaling", none)

    def _pooled(self, kind: Callable[..., Request], key: str, none: Sums) -> Sums:
        wanted, parts = self.wanted, [none]
        strength = wanted.stain_strength if wanted.laboratories else 0.0
        question = partial(kind, splits=("val",), laboratories=wanted.laboratories, stain_strength=strength)
        for reply in answers(self.prepared, self.chosen, self.names, self.lost, question):
            parts.append(type(none).from_lists(reply.sums["val"][key]))
            self.patches[reply.site] = parts[-1].n
        return pooled_sums(parts, same=wanted.weights == "sites")


def _fit_record(
    fit: TemperatureFit | ScalingFit, wanted: config.CalibrationFit, towards: float, patches: Mapping[str, int]
) -> dict[str, Any]:
    """`calibration` of summary.json."""
    entry: dict[str, Any] = (
        {"temperature": fit.temperature} if isinstance(fit, TemperatureFit) else {"method": "vector"}
    )
    entry |= {
        "patches": fit.patches,
        "groups": fit.groups,
        "pulled": fit.pulled,
        "sites": sorted(name for name, count in patches.items() if count),
        "nll_before": fit.nll_before,
        "nll_after": fit.nll_after,
        "bound": fit.bound,
    }
    if isinstance(fit, ScalingFit):
        entry |= {**(fit.calibration.vector or {}), "messages": fit.messages, "towards": towards}
    if wanted.weights == "sites":
        entry["weights"] = wanted.weights
    if wanted.laboratories:
        entry |= {"laboratories": wanted.laboratories, "stain_strength": wanted.stain_strength}
    return entry


def measure_sites(
    prepared: RunSetup, chosen: SelectedModel, tuned: Tuning, names: Collection[str], resamples: int | None = None
) -> Measured:
    """Test data at each named site; intervals from the pipeline's resamples, and training patches told from test
    patches at training sites. With `resamples` stated, as many and no such attack: the model is another site's."""
    lost: dict[str, str] = {}
    own = tuned.calibration or Calibration()
    question = partial(
        MeasureRequest,
        splits=("test",),
        resamples=prepared.pipeline.evaluation.resamples if resamples is None else resamples,
        temperature=own.temperature,
        scale=own.scale,
        bias=own.bias,
        thresholds=tuned.thresholds,
        malignant=malignant_classes(prepared.pipeline.task),
        members=prepared.pipeline.evaluation.members if resamples is None else 0,
        monitoring=bool(prepared.pipeline.evaluation.monitoring) and resamples is None,
        top=prepared.pipeline.evaluation.top,
        unit_thresholds=tuned.unit_thresholds,
    )
    measured = Measured()
    for reply in answers(prepared, chosen, names, lost, question):
        measured.add(reply, prepared.roles[reply.site])
    return replace(measured, failures=named(lost))


def answers(
    prepared: RunSetup,
    chosen: SelectedModel,
    names: Collection[str],
    lost: dict[str, str],
    question: Callable[..., Request],
) -> Iterator[Reply]:
    """What the sites reply to a question about the chosen model, which is a kind of request with all but the model;
    who failed, and why, goes into `lost`."""

    def request(name: str) -> Request:
        return question(
            chosen.round,
            chosen.weights,
            chosen.buffers,
            last_accepted_round=chosen.accepted.get(name, -1),
            stain_reference=chosen.stain_reference,
        )

    for answer in prepared.transport.call(sorted(names), request):
        if isinstance(answer, Failure):
            lost[answer.site] = answer.reason
        else:
            yield answer


def named(lost: Mapping[str, str]) -> tuple[FailureRecord, ...]:
    """The failures of sites by reason."""
    return tuple({"site": site, "reason": reason} for site, reason in lost.items())
