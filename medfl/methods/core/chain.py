"""The methods of a pipeline together. The empty chain is FedAvg; the order of methods in a chain does not matter."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

from medfl.errors import MedflError, nearest
from medfl.methods.core.compatibility import check_pair
from medfl.methods.core.context import SiteContext
from medfl.methods.core.local_layers import LocalLayers
from medfl.methods.core.method import Method
from medfl.methods.core.registry import method_class
from medfl.model.flat_model import FlatModel

PHASES = (
    *("before_training", "transform_batch", "perturb", "modify_logits", "modify_loss", "ascend"),
    *("on_gradient", "modify_gradient", "optimizer_step", "after_step", "on_last_gradient", "make_update"),
    *("personal_models", "send", "reject", "transform_reply", "aggregation_weight", "on_reply", "aggregate"),
    *("server_step", "aggregate_buffers", "on_validation", "wire_bytes"),
)
TRAINS = "optimizer_step"
"""The phase in which the whole model is trained, what stays at the site with it."""


class MethodChain:
    """The methods of a pipeline, called phase by phase.

    Attributes:
        local_layers: what stays at each site, once `prepare` has seen the model.
    """

    def __init__(self, methods: Sequence[Method] = ()) -> None:
        self.methods = tuple(methods)
        ordered = sorted(self.methods, key=lambda method: method.runs_last)
        self.local_layers = LocalLayers()
        self._by_phase = {phase: tuple(method for method in ordered if method.acts_in(phase)) for phase in PHASES}

    def acts(self, phase: str) -> bool:
        """Whether any method acts in a phase."""
        return bool(self._by_phase[phase])

    def acting(self, phase: str) -> tuple[Method, ...]:
        """The methods that act in a phase."""
        return self._by_phase[phase]

    @property
    def elementwise(self) -> bool:
        """Whether gradients may come in blocks."""
        phases = ("on_gradient", "modify_gradient", TRAINS)
        return not len(self.local_layers) and all(each.elementwise for phase in phases for each in self.acting(phase))

    def call(self, phase: str, local: SiteContext) -> None:
        """Let every method that acts in a phase at a site act, on all but what stays at the site."""
        if not self.acts(phase):
            return
        with contextlib.nullcontext() if phase == TRAINS else local.without_local_layers():
            for method in self._by_phase[phase]:
                getattr(method, phase)(local)

    def async_schedule(self, sites: int) -> tuple[int, float] | None:
        """Arrivals and window of the asynchronous schedule (see `Method.async_schedule`); None is the synchronous one.

        Raises:
            MedflError: `sites` training sites are too few for it.
        """
        for method in self.methods:
            try:
                if (schedule := method.async_schedule(sites)) is not None:
                    return schedule
            except ValueError as error:
                raise MedflError(f"`method.{method.name}`: {error}") from None
        return None

    @property
    def sends(self) -> dict[str, int]:
        """Name -> length (`WEIGHTS`: P) of the vectors that a trained reply carries beside the update."""
        return {name: length for method in self.methods for name, length in method.sends.items()}

    @property
    def needs_features(self) -> bool:
        """Whether any method reads a batch's features."""
        return any(method.needs_features for method in self.methods)

    @property
    def keeps_updates(self) -> bool:
        """Whether any method needs every update of a round."""
        return any(method.keeps_updates for method in self.methods)

    @property
    def min_replies(self) -> int:
        """How many replies a round needs to count."""
        return max((method.min_replies for method in self.methods), default=1)

    @property
    def weighs_equally(self) -> bool:
        """Whether updates count once each, whatever the samples behind them."""
        return any(method.weighs_equally for method in self.methods)

    @property
    def local_norms(self) -> bool:
        """Whether any method keeps normalisation layers at the sites."""
        return any(method.local_norms for method in self.methods)

    def check(self, model: FlatModel, optimizer: str, momentum: float, weight_decay: float) -> None:
        """Refuse contradictions between methods, model and local optimiser.

        Raises:
            MedflError: one sentence naming the method and the remedy.
        """
        replacing = [method.name for method in self.methods if method.replaces_optimiser]
        if replacing and (optimizer != "sgd" or momentum or weight_decay):
            raise MedflError(
                f"`method`: {replacing[0]} replaces the optimiser, so `training.optimizer` must be sgd with momentum 0 "
                f"and weight_decay 0, not {optimizer} with momentum {momentum:g} and weight_decay {weight_decay:g}"
            )
        for method in self.methods:
            if method.needs_features and not model.gives_features:
                raise MedflError(
                    f"`method.{method.name}`: {model.spec.backbone} does not give its features apart from one "
                    f"classifier; take another backbone of timm"
                )
            if model.bag_dim is not None and method.acts_in("transform_batch"):
                raise MedflError(
                    f"`method.{method.name}` changes images, and `model.mil` reads bags of features; leave it out"
                )
            try:
                method.check(model, optimizer, momentum, weight_decay)
            except ValueError as error:
                raise MedflError(f"`method.{method.name}`: {error}") from None

    def prepare(self, model: FlatModel) -> None:
        """Let every method take what it needs to know of the model."""
        self.local_layers = LocalLayers.of(model.norm_slots() if self.local_norms else (), model.device)
        for method in self.methods:
            method.prepare(model)

    def describe(self) -> list[dict[str, Any]]:
        """The chain as a pipeline would state it, every hyper-parameter spelled out."""
        return [{"name": method.name, **dataclasses.asdict(method)} for method in self.methods]

    def __str__(self) -> str:
        return "+".join(method.name for method in self.methods) or "fedavg"


def build_chain(entries: Iterable[str | Mapping[str, Any]]) -> MethodChain:
    """Build a chain from a pipeline's `method` list.

    Args:
        entries: names, or mappings with `name` and hyper-parameters.

    Raises:
        MedflError: unknown method or hyper-parameter (nearest shown), value out of range, a method twice,
            methods that contradict each other.
    """
    methods: list[Method] = []
    for entry in entries:
        parameters = {"name": entry} if isinstance(entry, str) else dict(entry)
        name = parameters.pop("name", None)
        if not isinstance(name, str):
            raise MedflError(f"`method`: each entry is a name or a mapping with `name`, not {entry!r}")
        kind = method_class(name)
        allowed = [f.name for f in dataclasses.fields(kind)]
        for key in parameters:
            if key not in allowed:
                close = nearest(key, allowed)
                raise MedflError(f"`method.{name}.{key}` is no parameter of it.{close} It has: {', '.join(allowed)}")
        try:
            method = kind(**parameters)
        except (TypeError, ValueError) as error:
            raise MedflError(f"`method.{name}`: {error}") from None
        if any(type(other) is kind for other in methods):
            raise MedflError(f"`method`: {name} stands twice in the chain")
        methods.append(method)
    for method, other in permutations(methods, 2):
        try:
            check_pair(method, other)
        except ValueError as error:
            raise MedflError(f"`method`: {error}") from None
    return MethodChain(sorted(methods, key=lambda method: method.name))
