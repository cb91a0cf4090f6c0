"""What adaptation needs of a pipeline and its network, and what it has to know of training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from medfl import config
from medfl.errors import MedflError
from medfl.methods.core.chain import MethodChain
from medfl.model.flat_model import FlatModel

ADAPTED_STAIN = "reinhard"
"""How patches are normalised at a site that never trained where training did not: the simpler method."""


def stain_statistics_of(pipeline: config.Pipeline) -> str:
    """The method by which training sites tell their stain; "" where nothing asks for it."""
    normalise, adapt = pipeline.data.normalise, pipeline.adapt
    if normalise:
        return normalise.method if normalise.reference == "federated" else ""
    return ADAPTED_STAIN if adapt and adapt.may("normalise") else ""


def training_mix(pipeline: config.Pipeline, chain: MethodChain, rows: Iterable[Mapping[str, Any]]) -> tuple[float, ...]:
    """The class mix that a pipeline's model takes for granted: that of all training patches; of as much of each class
    where training evens it out. Counts that a site withholds are left out.

    Args:
        pipeline: with its classes, and the weights of classes.
        chain: a method that adjusts logits by class counts evens them out.
        rows: of allocation_summary.csv.
    """
    classes, training = pipeline.task.classes, pipeline.training
    counts = dict.fromkeys(classes, 0.0)
    for row in rows:
        if row["role"] == "train" and row["split"] == "train" and row["patches"] != "":
            counts[row["class"]] += float(row["patches"])
    even = training.weighted_loss or chain.acts("modify_logits") or not any(counts.values())
    weights = {name: 1.0 if even else count for name, count in counts.items()}
    if not even and training.class_weights:
        weights = {name: weight * training.class_weights.get(name, 1.0) for name, weight in weights.items()}
    total = sum(weights.values())
    return tuple(weights[name] / total for name in classes)


def check_adaptation(adapt: config.Adapt | None, model: FlatModel, where: str = "`adapt.remedy`") -> None:
    """Raise MedflError where a remedy cannot be done to this network, whatever the site."""
    if adapt and "batchnorm" in adapt.name.split("+") and (reason := no_batchnorm(model)):
        raise MedflError(f"{where}: {reason}; take normalise or class_mix")


def no_batchnorm(model: FlatModel) -> str:
    """Why BatchNorm statistics cannot be re-estimated; "" where they can."""
    if model.moving_batchnorm():
        return ""
    if model.all_batchnorm():
        return (
            f"the BatchNorm statistics of {model.spec.backbone} are frozen: its classifier knows features under those "
            f"of pretraining only, and guesses under others (accuracy .82 became .27)"
        )
    return f"{model.spec.backbone} has no BatchNorm whose statistics could be re-estimated"
