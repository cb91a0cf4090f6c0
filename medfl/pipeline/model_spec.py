"""What a pipeline says of its model, for whoever builds it: this process, a later one, or a site elsewhere."""

from __future__ import annotations

from typing import Literal

from medfl import config
from medfl.model.backbone import ModelSpec, complete
from medfl.model.weights_file import InputSpec


def model_spec(pipeline: config.Pipeline) -> ModelSpec:
    """What the pipeline says of its model."""
    model = pipeline.model
    given: InputSpec | Literal["timm"] | None = None
    if isinstance(model.input, config.InputNormalisation):
        given = InputSpec(model.input.mean, model.input.std, model.input.interpolation or "")
    elif model.input is not None:
        given = model.input
    return ModelSpec(
        backbone=model.backbone,
        classes=tuple(pipeline.task.classes),
        args=model.args,
        weights=model.weights,
        sha256=model.sha256,
        input=given,
        licence=model.licence or "",
        train=model.train if isinstance(model.train, str) else model.train.blocks,
        network=pipeline.parts.network,
    )


def pinned(pipeline: config.Pipeline) -> config.Pipeline:
    """The pipeline with the sha256 of the file of weights stated, so that it never means another file.

    Raises:
        MedflError: what `medfl.model.backbone.complete` raises.
    """
    spec, _ = complete(model_spec(pipeline))
    if spec.sha256 == pipeline.model.sha256:
        return pipeline
    return pipeline.model_copy(update={"model": pipeline.model.model_copy(update={"sha256": spec.sha256})})


def model_at_a_site(pipeline: config.Pipeline) -> config.ModelConfig:
    """The model for a site that receives what trains from the server: what its weights state of themselves spelled out.
    What is frozen is not sent, so a site that needs it has the weights named, with their sha256.

    Raises:
        MedflError: what `medfl.model.backbone.complete` raises.
    """
    spec, _ = complete(model_spec(pipeline))
    given: config.InputNormalisation | str | None = None
    if isinstance(spec.input, InputSpec):
        resized = {"interpolation": spec.input.interpolation or None}
        given = config.InputNormalisation.model_validate({"mean": spec.input.mean, "std": spec.input.std, **resized})
    elif spec.input is not None:
        given = spec.input
    update = {"backbone": spec.backbone, "args": dict(spec.args), "input": given, "sha256": spec.sha256}
    if spec.train == "all":
        update |= {"weights": "random", "sha256": None}
    return pipeline.model.model_copy(update=update)
