"""Adaptation at sites that never trained: which remedy, chosen where, and its figures beside the plain ones.

`adapt.remedy: auto` asks training sites only: each sees its validation patches through a random laboratory, so that it
stands for a hospital that never trained, adapts on half of their source groups and judges on the other half. The model
has trained on these sites, so this is kinder than leaving each of them out would be; that takes a run a site, which
`medfl study --leave-one-site-out` does with a remedy stated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np

from medfl import config
from medfl.config.adapt_config import AUTO
from medfl.errors import RunFailed
from medfl.federation.stain_agreement import agree
from medfl.messages import AdaptRequest
from medfl.metrics.group_figures import group_figures
from medfl.metrics.logit_calibration import Calibration
from medfl.metrics.measure import mean_supported
from medfl.metrics.record_types import AdaptedResult, FailureRecord, SiteResult
from medfl.metrics.remedies import PLAIN, looks_changed, name_of, steps_of
from medfl.metrics.temperature import TemperatureSums, fit_temperature, temperature_sums
from medfl.pipeline.adaptation_needs import ADAPTED_STAIN, no_batchnorm
from medfl.pipeline.final_evaluation import Measured, SelectedModel, Tuning, answers, named
from medfl.pipeline.malignancy import malignant_classes
from medfl.pipeline.prepare import RunSetup

CANDIDATES = (
    "normalise",
    "batchnorm",
    "class_mix",
    "normalise+class_mix",
    "batchnorm+class_mix",
    "normalise+em",
    "batchnorm+em",
)
"""What `auto` chooses among, besides doing nothing."""
LABORATORY = 0.5
"""Strength of the random laboratory: about what stain and scanner together make between real ones (docs/stain.md)."""


@dataclass(frozen=True)
class AdaptationPlan:
    """What is done at held-out sites.

    Attributes:
        remedy: its name; "none" where `auto` saw nothing that is better.
        patches: at most so many are adapted on.
        training_mix: share of each class in training, in class order.
        reference: numbers of the stain to normalise to; none where that is no step.
        auto: whether it was chosen here.
        trials: remedy -> mean NLL over the training sites that could try it, and their number.
        failures: sites that did not answer.
        temperature: of the adapted model, where it has one of its own.
    """

    remedy: str
    patches: int
    training_mix: tuple[float, ...]
    reference: tuple[float, ...] = ()
    auto: bool = False
    trials: Mapping[str, Mapping[str, float | int | None]] = field(default_factory=dict)
    failures: Sequence[FailureRecord] = ()
    temperature: float | None = None

    def request(self, tuned: Tuning, pipeline: config.Pipeline, **changes: Any) -> Callable[..., AdaptRequest]:
        """The question to a site, with all but the model."""
        own = Calibration(self.temperature) if self.temperature else tuned.calibration or Calibration()
        asked: dict[str, Any] = {
            "splits": ("test",),
            "remedies": (self.remedy,),
            "patches": self.patches,
            "training_mix": self.training_mix,
            "reference": self.reference,
            "temperature": own.temperature,
            "scale": own.scale,
            "bias": own.bias,
            "malignant": malignant_classes(pipeline.task),
            "top": pipeline.evaluation.top,
        }
        return partial(AdaptRequest, **(asked | changes))

    def facts(self) -> dict[str, Any]:
        """What model.json says of it."""
        facts = {"remedy": self.remedy, "patches": self.patches, "reference": list(self.reference) or None}
        return facts | {"temperature": self.temperature}


def plan_adaptation(
    setup: RunSetup, chosen: SelectedModel, tuned: Tuning, mix: tuple[float, ...], say: Callable[[str], None]
) -> AdaptationPlan | None:
    """What is to be done at held-out sites, before any of their data is touched; None where nothing is."""
    adapt = setup.pipeline.adapt
    if adapt is None:
        return None
    plan = AdaptationPlan(adapt.name, adapt.patches, mix, _reference(setup, chosen, say))
    plan = choose(setup, chosen, tuned, plan, say) if adapt.remedy == AUTO else plan
    return _calibrated(setup, chosen, tuned, plan)


def _calibrated(setup: RunSetup, chosen: SelectedModel, tuned: Tuning, plan: AdaptationPlan) -> AdaptationPlan:
    """The plan with a temperature of its own, fitted to the judged half of training sites' validation data, each
    adapted like a held-out site; none where the remedy leaves network and patches alone, or nobody could be adapted.

    The plain model's does not fit: it answers for what the stains of many laboratories do to a network as it is.
    """
    if not looks_changed(steps_of(plan.remedy)) or tuned.calibration is None:
        return plan
    names, failures = list(setup.config.train_sites), list(plan.failures)
    while True:  # all messages of a fit must reach the same sites, so where one fails the fit starts over without it
        lost: dict[str, str] = {}
        fit = fit_temperature(partial(_sums_adapted, setup, chosen, tuned, plan, names, lost))
        failures += named(lost)
        if not lost:
            return replace(plan, temperature=fit.temperature if fit.patches else None, failures=failures)
        names = [name for name in names if name not in lost]


def _sums_adapted(
    setup: RunSetup,
    chosen: SelectedModel,
    tuned: Tuning,
    plan: AdaptationPlan,
    names: Sequence[str],
    lost: dict[str, str],
    temperatures: tuple[float, ...],
) -> TemperatureSums:
    """Over the validation data of these sites, adapted, at each of the temperatures; who fails is added to `lost`."""
    total = temperature_sums(np.empty((0, 1)), np.empty(0, dtype=np.int64), temperatures)
    remedy = name_of(looks_changed(steps_of(plan.remedy)))
    asked: dict[str, Any] = {"splits": ("val",), "remedies": (remedy,), "temperatures": temperatures}
    asked |= {"temperature": 1.0, "scale": (), "bias": ()}
    for reply in answers(setup, chosen, names, lost, plan.request(tuned, setup.pipeline, **asked)):
        total += TemperatureSums.from_lists(reply.sums["val"]["temperatures"])
    return total


def _reference(setup: RunSetup, chosen: SelectedModel, say: Callable[[str], None]) -> tuple[float, ...]:
    """The mean of the training sites' stains, where patches are to be normalised to it; none where none can be had,
    which costs that step and not the run."""
    adapt, pipeline = setup.pipeline.adapt, setup.pipeline
    if adapt is None or pipeline.data.normalise or not adapt.may("normalise"):
        return ()
    sites, quorum = setup.config.train_sites, pipeline.training.quorum
    try:
        agreement = agree(setup.transport, sites, ADAPTED_STAIN, False, quorum, say, chosen.round, chosen.accepted)
        return agreement.reference
    except RunFailed as failed:
        say(f"Adaptation: without normalisation, since {failed}")
        return ()


def choose(
    setup: RunSetup, chosen: SelectedModel, tuned: Tuning, plan: AdaptationPlan, say: Callable[[str], None]
) -> AdaptationPlan:
    """The plan with the remedy that has the lowest mean NLL over the training sites that can try it, all alike."""
    names = [name for name in CANDIDATES if _possible(setup, plan, name)]
    lost: dict[str, str] = {}
    question = plan.request(tuned, setup.pipeline, splits=("val",), remedies=tuple(names), laboratory=LABORATORY)
    tried = [reply.metrics for reply in answers(setup, chosen, setup.config.train_sites, lost, question)]
    tried = [figures for figures in tried if figures[PLAIN]["n"]]
    trials = {
        name: {"nll": mean_supported(f[name]["nll"] for f in tried), "sites": len(tried)} for name in (PLAIN, *names)
    }
    scored = {name: trial["nll"] for name, trial in trials.items() if trial["nll"] is not None}
    remedy = min(scored, key=lambda name: scored[name]) if scored else PLAIN
    if not tried:
        say("Adaptation: no training site has validation data of enough source groups to try a remedy on; none is done")
    return AdaptationPlan(
        remedy, plan.patches, plan.training_mix, plan.reference, auto=True, trials=trials, failures=named(lost)
    )


def _possible(setup: RunSetup, plan: AdaptationPlan, remedy: str) -> bool:
    """Whether every held-out site could be given a remedy."""
    steps = steps_of(remedy)
    if "normalise" in steps and not plan.reference:
        return False
    if "batchnorm" in steps and no_batchnorm(setup.shared.model):
        return False
    return "class_mix" not in steps or all(site.class_mix for site in setup.pipeline.held_out_sites)


def adapt_sites(
    setup: RunSetup, chosen: SelectedModel, tuned: Tuning, plan: AdaptationPlan, measured: Measured
) -> dict[str, Any]:
    """Measure the adapted model at the held-out sites that have plain figures, which get theirs beside them; returns
    that part of summary.json."""
    names = [name for name, entry in measured.sites.items() if entry["role"] == "held_out"]
    lost: dict[str, str] = {}
    closing: dict[str, Any] = {
        "resamples": setup.pipeline.evaluation.resamples,
        "thresholds": tuned.thresholds,
        "unit_thresholds": tuned.unit_thresholds,
    }
    question = plan.request(tuned, setup.pipeline, **closing)
    for reply in answers(setup, chosen, names, lost, question):
        measured.sites[reply.site]["adapted"] = adapted_result(reply.metrics, plan.remedy)
    classes = setup.pipeline.task.classes
    return {
        **plan.facts(),
        "auto": plan.auto,
        "trials": dict(plan.trials),
        "training_mix": dict(zip(classes, plan.training_mix, strict=True)),
        **adapted_groups(measured.sites),
        "failures": [*plan.failures, *named(lost)],
    }


def adapted_result(metrics: Mapping[str, Mapping[str, Any]], remedy: str) -> AdaptedResult:
    """A site's `adapted` entry of summary.json, of what it replied."""
    figures, plain = dict(metrics[remedy]), dict(metrics[PLAIN])
    plain.pop("adaptation")
    return cast(AdaptedResult, {**figures.pop("adaptation"), "figures": figures, "plain": plain})


def adaptation_facts(facts: Mapping[str, Any], adapt: config.Adapt, sites: Mapping[str, SiteResult]) -> dict[str, Any]:
    """The same part for a trained model that was measured later, by its model.json, at sites that were adapted."""
    remedy = facts["adaptation"]["remedy"] if adapt.remedy == AUTO else adapt.name
    return {"remedy": remedy, "auto": False, "trials": {}, "failures": [], **adapted_groups(sites)}


def adapted_groups(sites: Mapping[str, SiteResult]) -> dict[str, Any]:
    """Figures over the held-out sites that were adapted: "held_out", and of the plain model on the same patches
    "plain"."""
    adapted = {name: entry["adapted"] for name, entry in sites.items() if "adapted" in entry}
    judged = {name: entry for name, entry in adapted.items() if entry["figures"]["n"]}
    after, before = (
        group_figures({name: {**figures[name], "role": "held_out"} for name in judged}, "held_out")
        for figures in (
            {name: entry["figures"] for name, entry in judged.items()},
            {name: entry["plain"] for name, entry in judged.items()},
        )
    )
    return {"held_out": after, "plain": before}
