"""A timm network as a pipeline names it: architecture, classes, the weights it starts from, how images are given."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from medfl.errors import MedflError, nearest
from medfl.model.bag_network import BAG_ARGUMENTS, BagNetwork, build_bag_network, is_bag_network
from medfl.model.trained_part import Train
from medfl.model.weights_file import (
    HUB,
    LOCAL_DIR,
    PRETRAINED,
    RANDOM,
    InputSpec,
    WeightsFile,
    check_finite,
    find_weights,
)

PROGRAM = "program"  # before the name of a network that a program hands over
AS_IT_IS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # mean and deviation of a feature vector, which no network normalises
FILES = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}  # timm would read a file of any kind


@dataclass(frozen=True)
class ModelSpec:
    """How to build a network.

    Attributes:
        backbone: a timm name; None where the weights say which.
        classes: names, in the order of the logits.
        args: what `timm.create_model` receives.
        weights: where it starts: `random`, `pretrained`, `package`, a file or a run's folder, `local-dir:DIR` or
            `hf-hub:ORG/NAME`.
        sha256: of the file of weights, where it has to be that one.
        input: how images are given; "timm" is what timm states for the backbone's name, None what the weights state.
        licence: of the weights, where nothing beside them states one.
        train: which part trains, see `medfl.model.trained_part`.
        pooling: how a vision transformer's tokens become features, `cls`, `avg` or `cls+avg`; None is what the weights
            state, else timm's.
        hidden: width of the hidden layer of the head; None is a linear one.
        zero_classifier: the layer that gives the logits starts at zero, so that its draw does not shake the backbone.
        channels_last: lay four-dimensional weights out in that memory format.
        network: one that a program hands over, in place of timm's; its values are where training starts.
    """

    backbone: str | None
    classes: tuple[str, ...]
    args: Mapping[str, Any] = field(default_factory=dict)
    weights: str = RANDOM
    sha256: str | None = None
    input: InputSpec | Literal["timm"] | None = None
    licence: str = ""
    train: Train = "all"
    pooling: str | None = None
    hidden: int | None = None
    zero_classifier: bool = False
    channels_last: bool = False
    network: nn.Module | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Start:
    """What is known of the weights that a network starts from.

    Attributes:
        origin: what they are, for people; "" for random ones.
        sha256: of their file, "" where it is not known.
        licence: as stated, "" where nothing states it.
    """

    origin: str = ""
    sha256: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Backbone:
    """A network, float32, on the CPU; the specification with everything filled in; and what it started from."""

    net: nn.Module
    spec: ModelSpec
    input: InputSpec
    start: Start


def complete(spec: ModelSpec) -> tuple[ModelSpec, WeightsFile | None]:
    """A specification whose backbone, arguments, digest and input are stated, as far as its weights state them.

    Raises:
        MedflError: unknown backbone or tag (close matches shown), no such weights, weights of another backbone, weights
            of which nothing says how images are given.
    """
    if spec.network is not None:
        return _of_program(spec, spec.network), None
    if refused := sorted(FILES & set(spec.args)):
        raise MedflError(f"`model.args.{refused[0]}` names a file; remove it and use `model.weights`")
    if spec.backbone is not None:
        check_name(spec.backbone, spec.weights == PRETRAINED)
    weights = find_weights(spec.weights, spec.sha256)
    if weights is None:
        return spec, None
    backbone, args = spec.backbone or weights.architecture, {**weights.args, **spec.args}
    if backbone is None:
        raise MedflError(
            f"`model.backbone` is missing, and nothing beside {weights.path} says what network it is of; name timm's"
        )
    if weights.architecture and _plain(backbone) != _plain(weights.architecture):
        raise MedflError(
            f"`model.weights: {spec.weights}` holds weights of {weights.architecture}, not of {backbone}; write "
            f"`backbone: {weights.architecture}` or leave `backbone` out"
        )
    if refused := sorted(FILES & set(args)):
        raise MedflError(f"{weights.path.with_name('config.json')}: `model_args.{refused[0]}` names a file; not read")
    if spec.input is None and weights.input is None and "." not in str(backbone):
        raise MedflError(
            f"`model.weights`: nothing states how {weights.path} wants its images normalised, and timm's default for "
            f"{backbone} would be a guess; add `model.input: {{mean: [...], std: [...]}}` from the weights' authors, "
            f"or `model.input: timm` to take that default"
        )
    filled = dataclasses.replace(
        spec,
        backbone=backbone,
        args=args,
        sha256=weights.sha256(),
        input=spec.input or weights.input or "timm",
        pooling=spec.pooling or weights.pooling,
    )
    return filled, weights


def create(spec: ModelSpec, seed: int) -> Backbone:
    """Build a timm network with seeded initial weights, or with those that it is to start from.

    Raises:
        MedflError: unknown backbone or tag (close matches shown), bad `args`, weights to start from that are not
            finite, and what `complete` and the weights' file raise.
    """
    spec, weights = complete(spec)
    if spec.network is not None:
        net = copy.deepcopy(spec.network)
        start = Start(f"the values of {spec.backbone}", network_digest(net), spec.licence)
        assert isinstance(spec.input, InputSpec)
        return Backbone(net.float(), spec, spec.input, start)
    if spec.backbone is None:
        raise MedflError("`model.backbone` is missing; name a timm model")
    check_name(spec.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _bag_network(spec) if is_bag_network(spec.backbone) else _timm_network(spec)
    if spec.zero_classifier:
        _zero_classifier(net, spec.backbone)
    pretrained_cfg = getattr(net, "pretrained_cfg", None) or {}
    start = Start()
    if weights is not None:
        weights.load_into(net)
        start = Start(weights.origin, spec.sha256 or "", spec.licence or weights.licence)
    elif spec.weights == PRETRAINED:
        check_finite(net.state_dict(), f"`model.weights: pretrained`: the weights of {spec.backbone}")
        start = Start("timm's published weights", "", spec.licence or str(pretrained_cfg.get("license") or ""))
    given = spec.input if isinstance(spec.input, InputSpec) else _of_timm(net)
    return Backbone(net.float(), spec, given, start)


def feature_count(spec: ModelSpec) -> int:
    """Numbers of the features that a network's classifier receives. Raises MedflError where it has no linear one."""
    with torch.random.fork_rng(devices=[]):
        net: Any = _timm_network(dataclasses.replace(spec, weights=RANDOM))
    classifier = net.get_classifier() if hasattr(net, "get_classifier") else None
    if not isinstance(classifier, nn.Linear):
        raise MedflError(f"`model.encoder`: {spec.backbone} has no single linear classifier at its end; take another")
    return classifier.in_features


def _zero_classifier(net: nn.Module, backbone: str) -> None:
    """Set the layer that gives the logits to zero, in place. Raises MedflError where there is no single one."""
    classifier = net.get_classifier() if hasattr(net, "get_classifier") else None  # type: ignore[operator]
    inside = classifier.modules() if isinstance(classifier, nn.Module) else ()
    layers = [module for module in inside if isinstance(module, nn.Linear | nn.Conv2d)]
    if not layers:
        raise MedflError(f"`model.classifier: zero`: {backbone} has no single classifier at its end; remove the key")
    for values in layers[-1].parameters():
        nn.init.zeros_(values)


def check_name(backbone: str, pretrained: bool = False) -> None:
    """Raise MedflError unless timm itself, without a network, knows this architecture and tag; with `pretrained`, also
    unless it has weights of it."""
    if is_bag_network(backbone):
        return
    import timm  # seconds, which a pipeline that is only read and checked should not cost

    place, colon, name = backbone.partition(":")
    if place == PROGRAM and colon:
        raise MedflError(
            f"`model.backbone`: {backbone} is a network of a program, which no file holds; hand it over again from "
            f"Python, `network=...`, or give it a name of timm's (`timm.models.register_model`) and name that"
        )
    if colon:
        same = name.rpartition("/")[2]
        own = f"write {same}, timm's own name" if timm.is_model(same) else "name timm's architecture here"
        which = f"leave it out and write `model.weights: {backbone}`"
        if f"{place}:" not in (LOCAL_DIR, HUB):
            which = "name the downloaded file in `model.weights`"
        raise MedflError(
            f"`model.backbone`: {backbone} asks for a network described at {place!r}, and only timm's own names are "
            f"built here; {own}, or {which}"
        )
    architecture = _plain(backbone)
    if not timm.is_model(architecture):
        close = nearest(backbone, timm.list_models())
        raise MedflError(f"`model.backbone`: timm {timm.__version__} has no {backbone!r}.{close}")
    try:
        timm.models.get_pretrained_cfg(backbone)
    except RuntimeError:
        tags = timm.list_models(f"{architecture}.*", pretrained=True)
        close = nearest(backbone, tags) or f" It has: {', '.join(tags) or 'none'}."
        raise MedflError(
            f"`model.backbone`: timm {timm.__version__} has {architecture}, but no weights named {backbone!r}.{close}"
        ) from None
    if pretrained and not timm.is_model_pretrained(backbone):
        raise MedflError(
            f"`model.weights: pretrained`: timm {timm.__version__} has no pretrained weights of {backbone}; take "
            f"another backbone, or name a file in `model.weights`"
        )


def network_digest(net: nn.Module) -> str:
    """sha256 of the names, shapes and values of a network's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {list(values.shape)} {values.dtype}\n".encode())
        digest.update(values.view(torch.uint8).numpy().tobytes() if values.dim() else str(values.item()).encode())
    return digest.hexdigest()


def _of_program(spec: ModelSpec, net: nn.Module) -> ModelSpec:
    """The specification of a program's own network, with the digest of its values.

    Raises:
        MedflError: it begins from other weights than the run did, nothing says how images are given, a key that only
            timm's networks have.
    """
    keys = {"args": spec.args, "weights": spec.weights != RANDOM, "pooling": spec.pooling, "head": spec.hidden}
    keys["classifier"] = spec.zero_classifier
    if key := next((key for key, value in keys.items() if value), None):
        raise MedflError(f"`model.{key}` is for timm's networks; build {spec.backbone} as it should start")
    if not isinstance(spec.input, InputSpec):
        raise MedflError(
            f"`model.input`: nothing states how {spec.backbone} wants its images normalised; add `model.input: "
            f"{{mean: [...], std: [...]}}` of values in [0, 1]"
        )
    digest = network_digest(net)
    if spec.sha256 is not None and spec.sha256 != digest:
        raise MedflError(
            f"the network {spec.backbone} does not start from the values that the run began with (sha256 "
            f"{spec.sha256[:12]}..., now {digest[:12]}...); build it under the same seed"
        )
    return dataclasses.replace(spec, sha256=digest)


def _plain(name: str | None) -> str:
    """A timm name without the tag that says which weights."""
    return str(name).partition(".")[0]


def _of_timm(net: nn.Module) -> InputSpec:
    if isinstance(net, BagNetwork):
        return InputSpec(*AS_IT_IS)
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(net)
    return InputSpec(tuple(config["mean"]), tuple(config["std"]), config["interpolation"])


def _bag_network(spec: ModelSpec) -> nn.Module:
    try:
        return build_bag_network(str(spec.backbone), len(spec.classes), spec.args)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MedflError(
            f"`model`: {spec.backbone} cannot be built with args {dict(spec.args)}: {error}; `model.args` takes "
            f"{', '.join(BAG_ARGUMENTS)}"
        ) from None


def _timm_network(spec: ModelSpec) -> nn.Module:
    from medfl.model.timm_network import build_network

    fetches = spec.weights == PRETRAINED
    try:
        return build_network(
            str(spec.backbone), len(spec.classes), spec.args, spec.pooling, spec.hidden, pretrained=fetches
        )
    except Exception as error:  # arguments go to whatever network timm has
        if not fetches or isinstance(error, TypeError | ValueError | KeyError | AssertionError):
            shaped = f", pooling {spec.pooling}" if spec.pooling else ""
            shaped += f", hidden layer {spec.hidden}" if spec.hidden else ""
            raise MedflError(
                f"`model`: timm cannot build {spec.backbone} with args {dict(spec.args)}{shaped}: {error}"
            ) from None
        raise MedflError(
            f"`model.weights: pretrained`: the weights of {spec.backbone} cannot be fetched ({type(error).__name__}); "
            f"download them where there is a network and name the file, or its folder as local-dir:DIR"
        ) from None
