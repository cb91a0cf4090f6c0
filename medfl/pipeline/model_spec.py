"""What a pipeline says of its model, for whoever builds it: this process, a later one, or a site elsewhere."""

from __future__ import annotations

import functools
from typing import Literal

from medfl import config
from medfl.model.backbone import ModelSpec, complete
from medfl.model.bag_network import PREFIX
from medfl.model.lora import Lora
from medfl.model.trained_part import Train
from medfl.model.weights_file import InputSpec
from medfl.tracking.download import Fetched, fetch_model

REFERENCES = ("models:/", "runs:/")
HIDDEN = 256
"""Width of the hidden layer of `head: mlp` where none is stated."""


def model_spec(pipeline: config.Pipeline) -> ModelSpec:
    """What the pipeline says of its model."""
    model = pipeline.model
    if model.mil is not None:
        hidden = {"hidden": model.hidden} if model.hidden else {}
        return ModelSpec(
            PREFIX + model.mil,
            tuple(pipeline.task.classes),
            {"dim": model.dim, **hidden, **model.args},
            weights=_weights(pipeline),
            sha256=model.sha256,
            licence=model.licence or "",
        )
    given: InputSpec | Literal["timm"] | None = None
    if isinstance(model.input, config.InputNormalisation):
        given = InputSpec(model.input.mean, model.input.std, model.input.interpolation or "")
    elif model.input is not None:
        given = model.input
    return ModelSpec(
        backbone=model.backbone,
        classes=tuple(pipeline.task.classes),
        args=model.args,
        weights=_weights(pipeline),
        sha256=model.sha256,
        input=given,
        licence=model.licence or "",
        train=_train(model.train),
        pooling=model.pooling,
        hidden=(model.hidden or HIDDEN) if model.head == "mlp" else None,
        zero_classifier=model.classifier == "zero",
        network=pipeline.parts.network,
    )


def _train(value: str | config.TrainedPart) -> Train:
    if isinstance(value, str):
        return value
    if value.lora is not None:
        return Lora(value.lora.rank, value.lora.alpha, tuple(value.lora.targets))
    assert value.blocks is not None
    return value.blocks


def _weights(pipeline: config.Pipeline) -> str:
    """`model.weights`, of a model in MLflow the folder on this machine that it has been brought to."""
    value = pipeline.model.weights
    return str(_fetched(value, pipeline.tracking).directory) if value.startswith(REFERENCES) else value


def _fetched(reference: str, tracking: config.Tracking) -> Fetched:
    return fetch_model(reference, tracking) if "@" in reference else _fetched_once(reference, tracking)


@functools.lru_cache(maxsize=8)
def _fetched_once(reference: str, tracking: config.Tracking) -> Fetched:
    """A version or a run's model, which never changes."""
    return fetch_model(reference, tracking)


def pinned(pipeline: config.Pipeline) -> config.Pipeline:
    """The pipeline with the sha256 of the file of weights stated, so that it never means another file, and of a
    registered model its version in place of an alias.

    Raises:
        MedflError: what `medfl.model.backbone.complete` raises.
    """
    if pipeline.model.weights.startswith(REFERENCES):
        version = _fetched(pipeline.model.weights, pipeline.tracking).uri
        pipeline = _with_model(pipeline, weights=version)
    spec, _ = complete(model_spec(pipeline))
    return pipeline if spec.sha256 == pipeline.model.sha256 else _with_model(pipeline, sha256=spec.sha256)


def as_saved(pipeline: config.Pipeline) -> config.Pipeline:
    """The pipeline whose network is the one that its run's model.safetensors holds: with LoRA a plain one."""
    if isinstance(pipeline.model.train, str) or pipeline.model.train.lora is None:
        return pipeline
    return _with_model(pipeline, train="all")


def _with_model(pipeline: config.Pipeline, **update: object) -> config.Pipeline:
    return pipeline.model_copy(update={"model": pipeline.model.model_copy(update=update)})


def model_at_a_site(pipeline: config.Pipeline) -> config.ModelConfig:
    """The model for a site that receives what trains from the server: what its weights state of themselves spelled out.
    What is frozen is not sent, so a site that needs it has the weights named, with their sha256.

    Raises:
        MedflError: what `medfl.model.backbone.complete` raises.
    """
    if pipeline.model.mil is not None:
        return pipeline.model.model_copy(update={"weights": "random", "sha256": None})
    spec, _ = complete(model_spec(pipeline))
    given: config.InputNormalisation | str | None = None
    if isinstance(spec.input, InputSpec):
        resized = {"interpolation": spec.input.interpolation or None}
        given = config.InputNormalisation.model_validate({"mean": spec.input.mean, "std": spec.input.std, **resized})
    elif spec.input is not None:
        given = spec.input
    update = {"backbone": spec.backbone, "args": dict(spec.args), "input": given, "pooling": spec.pooling}
    begins = spec.train != "all"
    update |= {"weights": spec.weights if begins else "random", "sha256": spec.sha256 if begins else None}
    return pipeline.model.model_copy(update=update)
