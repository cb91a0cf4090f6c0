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
        MedflError: unknown backbone (close matches shown), bad `args`, pretrained weights out of reach, bad checkpoint.
    """
    import timm  # seconds, which a pipeline that is only read and checked should not cost

    known = timm.list_models()
    if spec.backbone.split(".")[0] not in known:
        raise MedflError(
            f"`model.backbone`: timm {timm.__version__} has no {spec.backbone!r}.{nearest(spec.backbone, known)}"
        )
    if refused := sorted(FILES & set(spec.args)):
        raise MedflError(f"`model.args.{refused[0]}` names a file; remove it and use `model.checkpoint`")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net: nn.Module = timm.create_model(
                spec.backbone, pretrained=spec.pretrained, num_classes=len(spec.classes), **dict(spec.args)
            )
        except (TypeError, ValueError, KeyError, AssertionError) as error:
            raise MedflError(
                f"`model`: timm cannot build {spec.backbone} with args {dict(spec.args)}: {error}"
            ) from None
        except Exception as error:
            if not spec.pretrained:
                raise
            raise MedflError(
                f"`model.pretrained`: the weights of {spec.backbone} cannot be fetched ({type(error).__name__}); "
                f"download them where there is a network and name the file in `model.checkpoint`"
            ) from None
    if spec.checkpoint:
        load_checkpoint(net, Path(spec.checkpoint))
    return net.float()


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
    net.load_state_dict(state, strict=False)
