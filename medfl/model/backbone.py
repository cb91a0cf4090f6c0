"""A timm network as a pipeline names it: architecture, classes, where its weights start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medfl.errors import MedflError, nearest

FILES = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}  # timm would read a file of any kind


@dataclass(frozen=True)
class ModelSpec:
    """How to build a backbone: a timm name, the classes, what `timm.create_model` receives, and where it starts."""

    backbone: str
    classes: tuple[str, ...]
    args: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    checkpoint: str | None = None
    channels_last: bool = False


def create(spec: ModelSpec, seed: int) -> nn.Module:
    """Build a float32 timm network with seeded initial weights.

    Raises:
        MedflError: unknown backbone or tag (close matches shown), bad `args`, pretrained weights out of reach, bad
            checkpoint, weights to start from that are not finite.
    """
    import timm  # seconds, which a pipeline that is only read and checked should not cost

    check_name(spec.backbone, spec.pretrained)
    if refused := sorted(FILES & set(spec.args)):
        raise MedflError(f"`model.args.{refused[0]}` names a file; remove it and use `model.checkpoint`")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net: nn.Module = timm.create_model(
                spec.backbone, pretrained=spec.pretrained, num_classes=len(spec.classes), **dict(spec.args)
            )
        except Exception as error:  # arguments go to whatever network timm has
            if not spec.pretrained or isinstance(error, TypeError | ValueError | KeyError | AssertionError):
                raise MedflError(
                    f"`model`: timm cannot build {spec.backbone} with args {dict(spec.args)}: {error}"
                ) from None
            raise MedflError(
                f"`model.pretrained`: the weights of {spec.backbone} cannot be fetched ({type(error).__name__}); "
                f"download them where there is a network and name the file in `model.checkpoint`"
            ) from None
    if spec.checkpoint:
        load_checkpoint(net, Path(spec.checkpoint))
    elif spec.pretrained:
        check_finite(net.state_dict(), f"`model.pretrained`: the weights of {spec.backbone}")
    return net.float()


def check_name(backbone: str, pretrained: bool = False) -> None:
    """Raise MedflError unless timm itself, without a network, knows this architecture and tag; with `pretrained`, also
    unless it has weights of it."""
    import timm

    place, colon, name = backbone.partition(":")
    if colon:
        same = name.rpartition("/")[2]
        own = f"write {same}, timm's own name, or name" if timm.is_model(same) else "name timm's architecture here and"
        raise MedflError(
            f"`model.backbone`: {backbone} asks for a network described at {place!r}, and only timm's own names are "
            f"built here; {own} the downloaded file in `model.checkpoint`"
        )
    known, architecture = timm.list_models(), backbone.partition(".")[0]
    if architecture not in known:
        raise MedflError(f"`model.backbone`: timm {timm.__version__} has no {backbone!r}.{nearest(backbone, known)}")
    tags = timm.list_models(f"{architecture}.*", pretrained=True)
    try:
        timm.models.get_pretrained_cfg(backbone)
    except RuntimeError:
        close = nearest(backbone, tags) or f" It has: {', '.join(tags) or 'none'}."
        raise MedflError(
            f"`model.backbone`: timm {timm.__version__} has {architecture}, but no weights named {backbone!r}.{close}"
        ) from None
    if pretrained and not timm.is_model_pretrained(backbone):
        raise MedflError(
            f"`model.pretrained`: timm {timm.__version__} has no pretrained weights of {backbone}; take another "
            f"backbone, or name a file in `model.checkpoint`"
        )


def check_finite(state: Mapping[str, Tensor], what: str) -> None:
    """Raise MedflError, beginning with `what`, where a tensor has values that are not finite."""
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        raise MedflError(
            f"{what} have values that are not finite in {len(bad)} tensors (first: {bad[0]}), so they are no "
            f"model; take others"
        )


def load_checkpoint(net: nn.Module, path: Path) -> None:
    """Load safetensors or a timm state dict (weights only, nothing executable) into a network.

    A classifier of another size is left at its initial values; any other difference is an error.
    """
    if not path.is_file():
        raise MedflError(f"`model.checkpoint`: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            state: dict[str, Any] = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            state = next((loaded[k] for k in ("state_dict_ema", "state_dict", "model") if k in loaded), loaded)
        state = {
            str(name).removeprefix("module."): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)
        }
    except Exception as error:
        raise MedflError(
            f"`model.checkpoint`: {path} is neither safetensors nor a weights-only state dict ({type(error).__name__})"
        ) from None
    own = net.state_dict()
    classifier: Any = getattr(net, "pretrained_cfg", {}).get("classifier") or ()
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    for name in [n for n in state if n in own and state[n].shape != own[n].shape and n.startswith(heads)]:
        del state[name]
    wrong = sorted(n for n in state if n not in own or state[n].shape != own[n].shape)
    absent = sorted(n for n in own if n not in state and not n.startswith(heads) and "num_batches" not in n)
    if wrong or absent:
        raise MedflError(
            f"`model.checkpoint`: {path} does not fit the backbone: "
            f"{len(absent)} tensors missing, {len(wrong)} unknown or misshapen (first: {(absent + wrong)[0]})"
        )
    check_finite(state, f"`model.checkpoint`: the weights in {path}")
    net.load_state_dict(state, strict=False)
