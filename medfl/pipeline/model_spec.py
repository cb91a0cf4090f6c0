"""What a pipeline says of its model, for whoever builds it: this process, a later one, or a site elsewhere."""

from __future__ import annotations

import functools
import json
from typing import Literal

from medfl import config
from medfl.model.backbone import ModelSpec, complete, feature_count
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
            {"dim": _dim(pipeline), **hidden, **model.args},
            weights=_local(model.weights, pipeline.tracking),
            sha256=model.sha256,
            licence=model.licence or "",
        )
    return ModelSpec(
        backbone=model.backbone,
        classes=tuple(pipeline.task.classes),
        args=model.args,
        weights=_local(model.weights, pipeline.tracking),
        sha256=model.sha256,
        input=_given(model.input),
        licence=model.licence or "",
        train=_train(model.train),
        pooling=model.pooling,
        hidden=(model.hidden or HIDDEN) if model.head == "mlp" else None,
        zero_classifier=model.classifier == "zero",
        network=pipeline.parts.network,
    )


def encoder_spec(encoder: config.TileEncoder, tracking: config.Tracking) -> ModelSpec:
    """What is said of an encoder of tiles: a network whose classifier, of which nothing is asked, alone would train."""
    return ModelSpec(
        backbone=encoder.backbone,
        classes=("one", "other"),
        args=encoder.args,
        weights=_local(encoder.weights, tracking),
        sha256=encoder.sha256,
        input=_given(encoder.input),
        licence=encoder.licence or "",
        train="head",
        pooling=encoder.pooling,
    )


def _dim(pipeline: config.Pipeline) -> int | None:
    """Numbers of a feature vector: as stated, or as many as the encoder gives."""
    model = pipeline.model
    if model.dim is not None or model.encoder is None:
        return model.dim
    spec, _ = complete(encoder_spec(model.encoder, pipeline.tracking))
    return _count_of(str(spec.backbone), json.dumps(dict(spec.args)), spec.pooling)


@functools.lru_cache(maxsize=8)
def _count_of(backbone: str, args: str, pooling: str | None) -> int:
    """Building a network takes seconds, and a run asks several times."""
    return feature_count(ModelSpec(backbone, ("one", "other"), json.loads(args), pooling=pooling))


def _given(value: str | config.InputNormalisation | None) -> InputSpec | Literal["timm"] | None:
    if isinstance(value, config.InputNormalisation):
        return InputSpec(value.mean, value.std, value.interpolation or "")
    return None if value is None else "timm"


def _train(value: str | config.TrainedPart) -> Train:
    if isinstance(value, str):
        return value
    if value.lora is not None:
        return Lora(value.lora.rank, value.lora.alpha, tuple(value.lora.targets))
    assert value.blocks is not None
    return value.blocks


def _local(weights: str, tracking: config.Tracking) -> str:
    """`weights` as stated, of a model in MLflow the folder on this machine that it has been brought to."""
    return str(_fetched(weights, tracking).directory) if weights.startswith(REFERENCES) else weights


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
    if (encoder := pipeline.model.encoder) is not None:
        encoder = pinned_encoder(encoder, pipeline.tracking)
        pipeline = _with_model(pipeline, encoder=encoder)
        pipeline = _with_model(pipeline, dim=_dim(pipeline))
    spec, _ = complete(model_spec(pipeline))
    return pipeline if spec.sha256 == pipeline.model.sha256 else _with_model(pipeline, sha256=spec.sha256)


def pinned_encoder(encoder: config.TileEncoder, tracking: config.Tracking) -> config.TileEncoder:
    """The encoder with all stated that its weights say of themselves, so that it never means another. Raises
    MedflError as `pinned`."""
    if encoder.weights.startswith(REFERENCES):
        encoder = encoder.model_copy(update={"weights": _fetched(encoder.weights, tracking).uri})
    spec, _ = complete(encoder_spec(encoder, tracking))
    update: dict[str, object] = {"backbone": spec.backbone, "args": dict(spec.args), "pooling": spec.pooling}
    return encoder.model_copy(update=update | {"sha256": spec.sha256, "input": _as_stated(spec.input)})


def _as_stated(given: InputSpec | Literal["timm"] | None) -> config.InputNormalisation | Literal["timm"] | None:
    """How images are given, as a pipeline states it."""
    if not isinstance(given, InputSpec):
        return given
    resized = {"interpolation": given.interpolation or None}
    return config.InputNormalisation.model_validate({"mean": given.mean, "std": given.std, **resized})


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
    update: dict[str, object] = {"backbone": spec.backbone, "args": dict(spec.args), "pooling": spec.pooling}
    update |= {"input": _as_stated(spec.input)}
    begins = spec.train != "all"
    update |= {"weights": spec.weights if begins else "random", "sha256": spec.sha256 if begins else None}
    return pipeline.model.model_copy(update=update)
