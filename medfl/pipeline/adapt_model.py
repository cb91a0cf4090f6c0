"""What a site is asked about a trained model that is to be adapted there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from medfl import config
from medfl.config.adapt_config import AUTO
from medfl.errors import MedflError
from medfl.messages import AdaptRequest
from medfl.metrics.logit_calibration import Calibration
from medfl.metrics.remedies import PLAIN, Step, looks_changed, steps_of
from medfl.pipeline.adaptation_needs import check_adaptation
from medfl.runs.model_facts import unit_top
from medfl.site.shared_model import SharedModel

OPTION = "--adapt"


def check_sees_images(reads_bags: bool) -> None:
    """Raise MedflError for a model over bags of features."""
    if reads_bags:
        raise MedflError(f"{OPTION} is for models that see images, and this one reads bags of features; leave it out")


def adapt_request(
    facts: Mapping[str, Any], adapt: config.Adapt, bench: SharedModel, model: tuple[Tensor, Tensor], resamples: int = 0
) -> AdaptRequest:
    """The question to a site about a trained model.

    Args:
        facts: model.json.
        adapt: the remedy; "auto" is the one that the model's run chose.
        bench: its network.
        model: its weights f32[P] and buffers f32[B].
        resamples: for intervals.

    Raises:
        MedflError: a remedy that this network, or what is known of its training, does not allow.
    """
    noted = facts.get("adaptation") or {}
    remedy = noted.get("remedy", "") if adapt.remedy == AUTO else adapt.name
    if not remedy:
        raise MedflError(
            f"{OPTION} auto takes the remedy that the model's run chose, and model.json names none; name one, or train "
            f"with `adapt: {{remedy: auto}}`"
        )
    steps = steps_of(remedy)
    if steps:
        check_adaptation(config.Adapt(remedy=list(steps)), bench.model, OPTION)
    mix, reference = facts.get("training_mix"), noted.get("reference")
    if not mix and {"class_mix", "em"} & set(steps):
        raise MedflError(
            f"{OPTION} {remedy}: model.json holds no `training_mix` (medfl wrote none when this model was trained), so "
            f"nothing says which class mix it takes for granted; take normalise or batchnorm"
        )
    if not reference and "normalise" in steps:
        raise MedflError(
            f"{OPTION} {remedy}: model.json holds no stain to normalise to; train with `adapt: {{remedy: normalise}}`, "
            f"or take another remedy"
        )
    temperature = _temperature(facts, steps)
    own = Calibration(temperature) if temperature else Calibration.of(facts)
    return AdaptRequest(
        0,
        *model,
        ("test",),
        remedies=(remedy,),
        patches=adapt.patches,
        training_mix=tuple(mix or ()),
        reference=tuple(reference or ()),
        resamples=resamples,
        temperature=own.temperature,
        scale=own.scale,
        bias=own.bias,
        thresholds=facts.get("thresholds"),
        malignant=tuple(facts.get("malignant") or ()),
        top=unit_top(facts),
        unit_thresholds=facts.get("unit_thresholds") or {},
    )


def _temperature(facts: Mapping[str, Any], steps: Sequence[Step]) -> float | None:
    """The adapted model's own, where its run fitted one for what these steps do to network and patches."""
    noted = facts.get("adaptation") or {}
    same = looks_changed(steps) == looks_changed(steps_of(noted.get("remedy", PLAIN)))
    return noted.get("temperature") if same else None
