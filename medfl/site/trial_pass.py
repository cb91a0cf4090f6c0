"""One forward and one backward pass before the first round: what a network cannot take is said then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medfl.errors import MedflError
from medfl.model.bag_network import Bags
from medfl.model.flat_model import FlatModel
from medfl.model.lora import is_factor
from medfl.model.memory_limits import OutOfMemory, explained
from medfl.model.weights_file import RANDOM
from medfl.site.shared_model import Loss, SharedModel


def try_network(shared: SharedModel, size: int, batch_size: int, loss: Loss | None = None) -> None:
    """Take a batch of drawn patches through the network and back, as a step of training does. Two are enough to tell,
    except where the network is compiled for whole batches.

    Nothing is left of it: weights, buffers, gradients and random streams are as before.

    Args:
        shared: the network, and the methods that say by which way it is called.
        size: pixels along each edge of a patch.
        batch_size: patches of a training step; of one patch BatchNorm has no statistics.
        loss: one that a program hands over in place of cross entropy.

    Raises:
        MedflError: the network fails on such a batch, in the library's own sentence, or gives no finite logits
            f32[N, C]; or the loss gives no value with a gradient; with the remedy. OutOfMemory: the batch does not fit.
    """
    model, count = shared.model, batch_size if shared.compiled else min(2, batch_size)
    format_ = torch.channels_last if model.spec.channels_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)
    images: Tensor | Bags
    if model.bag_dim is None:
        images = torch.randn(count, 3, size, size, generator=generator)
        images = images.to(model.device).contiguous(memory_format=format_)
    else:
        images = Bags(torch.randn(3 * count, model.bag_dim, generator=generator).to(model.device), (3,) * count)
    labels = (torch.arange(count) % len(model.spec.classes)).to(model.device)
    what = f"`model.backbone`: {model.spec.backbone}"
    with _left_alone(model):
        if batch_size == 1 and _has_moving_statistics(model.net):
            raise MedflError(
                f"{what} has BatchNorm, which takes its statistics over a batch, and `training.batch_size` is 1; set "
                f"it to 2 or more, or take a backbone without BatchNorm"
            )
        try:
            with explained(f"{count} patches of {size} px", model.device, "lower `data.size`"), shared.autocast():
                logits = model.head(model.features(images)) if shared.chain.needs_features else shared.net(images)
                if (flaw := _flaw(logits, count, len(model.spec.classes))) is None:
                    nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
                    flaw = _passed_by(model)
        except OutOfMemory:
            raise
        except Exception as error:  # whatever a network of another library raises
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise MedflError(
                f"{what} cannot be trained on patches of {size} px with three channels: "
                f"{reason.rstrip('.')}; {_remedy(model, size)}"
            ) from error
    if flaw is not None:
        raise MedflError(f"{what} {flaw}")
    if loss is not None:
        _try_loss(loss, len(model.spec.classes), model.device)


def _try_loss(loss: Loss, classes: int, device: torch.device) -> None:
    """Raise MedflError unless a loss of drawn logits is one finite number with a gradient."""
    logits = torch.randn(2, classes, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    labels = torch.arange(2, device=device) % classes
    try:
        value: Any = loss(logits, labels)
    except Exception as error:  # whatever a function of somebody else raises
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise MedflError(f"`loss`: it fails on logits f32[2, {classes}] and labels i64[2]: {reason}") from error
    if not isinstance(value, Tensor) or value.dim() or not value.requires_grad or not torch.isfinite(value):
        shown = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise MedflError(
            f"`loss`: it gives {shown} for logits f32[2, {classes}]; return the mean over the batch, one finite number "
            f"with a gradient"
        )


@contextmanager
def _left_alone(model: FlatModel) -> Iterator[None]:
    """Put back what a pass in training mode changes."""
    net, modes = model.net, {module: module.training for module in model.net.modules()}
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            model.train_mode()
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for name, buffer in net.named_buffers():
            if name in before and before[name].shape == buffer.shape:
                buffer.copy_(before[name])
        for parameter in model.parameters:
            parameter.grad = None


def _has_moving_statistics(net: nn.Module) -> bool:
    """Whether a BatchNorm trains; a frozen one is as in evaluation."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training for module in net.modules())


def _flaw(logits: Any, count: int, classes: int) -> str | None:
    """Why what a network gives for `count` patches is not their logits."""
    if not isinstance(logits, Tensor):
        return (
            f"gives a {type(logits).__name__} and not the scores of {classes} classes; remove what makes it so from "
            f"`model.args` (`features_only`, for example), or take a classifier"
        )
    if logits.shape != (count, classes):
        tokens = logits.dim() == 3 and len(logits) == count
        remedy = "remove what makes it so from `model.args`, or take a classifier"
        return (
            f"gives values of shape {list(logits.shape)} for {count} patches, not the scores of {classes} classes; "
            f"{'say with `model.pooling` how its tokens become features' if tokens else remedy}"
        )
    if not torch.isfinite(logits).all():
        return "gives scores that are not finite before any training; start it from other weights or `model.args`"
    return None


def _passed_by(model: FlatModel) -> str | None:
    """Which adapted layer the network does not call, so that its factor would never train."""
    for slot, parameter in zip(model.layout.slots, model.parameters, strict=True):
        if is_factor(slot.name) and parameter.grad is None:
            layer = slot.name.rpartition(".")[0]
            return f"reads the weight of {layer} without calling it, so LoRA cannot adapt it; state other `targets`"
    return None


def _remedy(model: FlatModel, size: int) -> str:
    """What to change, as far as the network says what it was made for."""
    net: Any = model.net
    if model.spec.args.get("in_chans", 3) != 3:
        return "remove `model.args.in_chans`"
    input_size = (getattr(net, "pretrained_cfg", None) or {}).get("input_size", (3, size, size))
    edge = (getattr(getattr(net, "patch_embed", None), "img_size", None) or input_size)[-1]
    ways = [f"set `data.size` to {edge}"] if edge != size else []
    if edge != size and getattr(net, "dynamic_img_size", None) is False and model.spec.weights != RANDOM:
        ways += ["set `model.args.dynamic_img_size` to true"]  # another `img_size` would not fit the weights
    elif edge != size and hasattr(net, "patch_embed"):
        ways += [f"set `model.args.img_size` to {size}"]
    ways += ["change `model.args`"] if model.spec.args else []
    return ", ".join([*ways, "or take another backbone" if ways else "take another backbone"])
