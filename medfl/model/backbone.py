"""A timm network as a pipeline names it: architecture, classes, the weights it starts from, how images are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from medfl.errors import MedflError, nearest
from medfl.model.trained_part import Train, evaluating
from medfl.model.weights_file import PRETRAINED, RANDOM, InputSpec, WeightsFile, find_weights

FILES = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}  # timm would read a file of any kind


@dataclass(frozen=True)
class ModelSpec:
    """How to build a network.

    Attributes:
        backbone: a timm name; None where the weights say which.
        classes: names, in the order of the logits.
        args: what `timm.create_model` receives.
        weights: where it starts: `random`, `pretrained`, `package`, a file, `local-dir:DIR` or `hf-hub:ORG/NAME`.
        sha256: of the file of weights, where it has to be that one.
        input: how images are given; "timm" is what timm states for the backbone's name, None what the weights state.
        licence: of the weights, where nothing beside them states one.
        train: which part trains, see `medfl.model.trained_part`.
        channels_last: lay four-dimensional weights out in that memory format.
    """

    backbone: str | None
    classes: tuple[str, ...]
    args: Mapping[str, Any] = field(default_factory=dict)
    weights: str = RANDOM
    sha256: str | None = None
    input: InputSpec | Literal["timm"] | None = None
    licence: str = ""
    train: Train = "all"
    channels_last: bool = False


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
        MedflError: no such weights, weights of another backbone, weights of which nothing says how images are given.
    """
    if refused := sorted(FILES & set(spec.args)):
        raise MedflError(f"`model.args.{refused[0]}` names a file; remove it and use `model.weights`")
    found = find_weights(spec.weights, spec.sha256)
    if found is None:
        return spec, None
    backbone, args = spec.backbone or found.architecture, {**found.args, **spec.args}
    if found.architecture and _plain(backbone) != _plain(found.architecture):
        raise MedflError(
            f"`model.weights: {spec.weights}` holds weights of {found.architecture}, not of {backbone}; write "
            f"`backbone: {found.architecture}` or leave `backbone` out"
        )
    if refused := sorted(FILES & set(args)):
        raise MedflError(f"{found.path.with_name('config.json')}: `model_args.{refused[0]}` names a file; not read")
    if spec.input is None and found.input is None and "." not in str(backbone):
        raise MedflError(
            f"`model.weights`: nothing states how {found.path} wants its images normalised, and timm's default for "
            f"{backbone} would be a guess; add `model.input: {{mean: [...], std: [...]}}` from the weights' authors, "
            f"or `model.input: timm` to take that default"
        )
    filled = dataclasses.replace(
        spec, backbone=backbone, args=args, sha256=found.sha256(), input=spec.input or found.input or "timm"
    )
    return filled, found


def create(spec: ModelSpec, seed: int) -> Backbone:
    """Build a timm network with seeded initial weights, or with those that it is to start from.

    Raises:
        MedflError: unknown backbone (close matches shown), bad `args`, and what `complete` and the weights' file raise.
    """
    import timm  # seconds, which a pipeline that is only read and checked should not cost

    spec, found = complete(spec)
    known = timm.list_models()
    if spec.backbone is None:
        raise MedflError("`model.backbone` is missing; name a timm model")
    if _plain(spec.backbone) not in known:
        raise MedflError(
            f"`model.backbone`: timm {timm.__version__} has no {spec.backbone!r}.{nearest(spec.backbone, known)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _timm_network(spec)
    if found is not None:
        found.load_into(net)
    stated = getattr(net, "pretrained_cfg", None) or {}
    start = Start()
    if found is not None:
        start = Start(found.origin, spec.sha256 or "", spec.licence or found.licence)
    elif spec.weights == PRETRAINED:
        start = Start("timm's published weights", "", spec.licence or str(stated.get("license") or ""))
    given = spec.input if isinstance(spec.input, InputSpec) else _of_timm(net)
    return Backbone(net.float(), spec, given, start)


def _plain(name: str | None) -> str:
    """A timm name without the tag that says which weights."""
    return str(name).partition(".")[0]


def _of_timm(net: nn.Module) -> InputSpec:
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(net)
    return InputSpec(tuple(config["mean"]), tuple(config["std"]), config["interpolation"])


def _timm_network(spec: ModelSpec) -> nn.Module:
    import timm

    fetches = spec.weights == PRETRAINED
    try:
        net: nn.Module = timm.create_model(
            spec.backbone, pretrained=fetches, num_classes=len(spec.classes), **dict(spec.args)
        )
    except (TypeError, ValueError, KeyError, AssertionError) as error:
        raise MedflError(f"`model`: timm cannot build {spec.backbone} with args {dict(spec.args)}: {error}") from None
    except Exception as error:
        if not fetches:
            raise
        raise MedflError(
            f"`model.weights: pretrained`: the weights of {spec.backbone} cannot be fetched ({type(error).__name__}); "
            f"download them where there is a network and name the file, or its folder as local-dir:DIR"
        ) from None
    return net


def check_size(net: nn.Module, size: int, backbone: str) -> None:
    """Raise MedflError where a network does not take patches of `size` pixels a side."""
    stated = getattr(net, "pretrained_cfg", None) or {}
    if not stated.get("fixed_input_size"):
        return
    parameter = next(net.parameters())
    try:
        with evaluating(net), torch.no_grad():
            net(torch.zeros(1, 3, size, size, device=parameter.device))
    except (AssertionError, RuntimeError, ValueError) as error:
        takes = getattr(getattr(net, "patch_embed", None), "img_size", None) or stated.get("input_size", (3, 224))[1:]
        raise MedflError(
            f"`data.size: {size}`: {backbone} takes patches of {takes[0]} px ({str(error).splitlines()[0]}); write "
            f"`data.size: {takes[0]}`, or have it built for another size by `model.args: {{img_size: {size}}}`"
        ) from None
