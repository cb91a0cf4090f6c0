"""Which part of a network trains. The rest is frozen: its parameters and statistics never move, whatever the method."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from medfl.errors import MedflError
from medfl.model.lora import Lora, add_lora

Train = str | int | Lora
"""`all`, `head`, the number of last blocks that train along with the head, or how layers are adapted along with it."""
Modes = tuple[tuple[nn.Module, bool], ...]


def freeze(net: nn.Module, train: Train, backbone: str, seed: int = 0) -> Modes:
    """Let only a part of a network require gradients; with LoRA, adapt its layers, the fixed factors drawn from `seed`.

    Returns:
        Modules and whether they are in training mode while the part trains, to be set one after another: what is frozen
        is in evaluation mode, so that its BatchNorm statistics and its dropout rest too.

    Raises:
        MedflError: the network has no such part.
    """
    if train == "all":
        return ((net, True),)
    if train == "head" or isinstance(train, Lora):
        classifier = net.get_classifier() if hasattr(net, "get_classifier") else None  # type: ignore[operator]
        if not isinstance(classifier, nn.Module) or not list(classifier.parameters()):
            raise MedflError(f"`model.train`: {backbone} has no single classifier at its end; take another backbone")
        factors = add_lora(net, train, backbone, seed) if isinstance(train, Lora) else []
        net.requires_grad_(False)
        classifier.requires_grad_(True)
        for factor in factors:
            factor.requires_grad_(True)
        return ((net, False), (classifier, True))
    names = _last_blocks(net, int(train), backbone)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in names)
    frozen = [
        module
        for module in net.modules()
        if list(module.parameters()) and not any(parameter.requires_grad for parameter in module.parameters())
    ]
    return ((net, True), *((module, False) for module in frozen))


class TrainingModes:
    """A network put into training and evaluation mode and back, every round of every site: of hundreds of modules only
    those are touched that change.

    Args:
        net: the network.
        modes: what `freeze` returns.
    """

    def __init__(self, net: nn.Module, modes: Modes) -> None:
        self.net, self.modes = net, modes
        self._set_in_turn()
        self._own = any(type(module).train is not nn.Module.train for module in net.modules())
        self._training = [(module, module.training) for module in net.modules()]

    def train(self) -> None:
        """What trains into training mode, what is frozen into evaluation mode."""
        if self._own:  # a module that does something of its own when it changes its mode
            self._set_in_turn()
            return
        for module, training in self._training:
            if module.training != training:
                module.training = training

    def eval(self) -> None:
        """All of it into evaluation mode."""
        if self._own:
            self.net.eval()
            return
        for module, _ in self._training:
            if module.training:
                module.training = False

    def _set_in_turn(self) -> None:
        for module, training in self.modes:
            module.train(training)


def train_facts(train: Train) -> Any:
    """What model.json says of which part trained: a word, or a mapping as a pipeline states it."""
    if isinstance(train, Lora):
        return {"lora": {"rank": train.rank, "alpha": train.alpha, "targets": list(train.targets)}}
    return train if isinstance(train, str) else {"blocks": train}


def trained_part(facts: Any) -> Train:
    """`train_facts` read back."""
    if isinstance(facts, str):
        return facts
    if (adapter := facts.get("lora")) is not None:
        return Lora(adapter["rank"], adapter["alpha"], tuple(adapter["targets"]))
    return int(facts["blocks"])


def _last_blocks(net: nn.Module, count: int, backbone: str) -> set[str]:
    """Names of the parameters of the last `count` blocks, as timm groups layers, and of all that comes behind them."""
    from timm.models._manipulate import group_parameters

    if not hasattr(net, "group_matcher"):
        raise MedflError(
            f"`model.train.blocks`: timm does not say what the blocks of {backbone} are; write all or head"
        )
    matcher = net.group_matcher(coarse=False)  # type: ignore[operator]
    groups = list(group_parameters(net, matcher, return_values=False).values())
    blocks = len(groups) - 2  # besides stem and head
    if count > blocks:
        raise MedflError(f"`model.train.blocks: {count}`: {backbone} has {blocks} blocks; state fewer, or `train: all`")
    return {name for group in groups[-count - 1 :] for name in group}


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, every module of it as it was afterwards."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
