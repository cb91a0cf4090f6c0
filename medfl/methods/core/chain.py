"""A method is a chain of methods, and the empty chain is FedAvg.

A method overrides the phases of a round in which it acts; the order of methods in a chain does not matter.

At a site (`LocalRound`):

    before_training    move the start point of local training (`local.model.vector`)
    on_gradient        look at the flat gradient of each step, before any method edits it
    modify_gradient    edit the flat gradient `local.gradient` before the optimiser's step
    optimizer_step     take the optimiser's place (at most one method of a chain)
    after_step         look at the weights after each step
    on_last_gradient   look at the flat gradient of the last step, before that step
    make_update        set `local.displacement`, add vectors to `local.extra_up`, keep state in `local.new_state`
    personal_models    name further models the site measures beside the global one

At the server (`Server`):

    send               vectors that go to a site beside the global model
    reject             say why a reply is not to be taken
    transform_reply    change a reply before it is taken
    aggregation_weight the factor of a reply's update in the sum (default: its samples)
    on_reply           look at an accepted reply; what it sums goes into `server.round_sums`
    aggregate          finish the mean of the round's updates; only here and in `serve` may `server.tensors` change
    server_step        what the server makes of the mean update
    aggregate_buffers  what the server makes of the mean buffers (BatchNorm statistics)
    on_validation      look at the training sites' validation figures, where the round measured them
    wire_bytes         how many bytes a message counts, where it would be encoded more tightly than it is here

What an update is: a site receives w, starts from s, ends at e. Its endpoint is s - u, where u is the plain
displacement s - e or what a method makes of it, and it replies with w - endpoint. FedAvg's new global model is then the
sample-weighted mean of endpoints. A site's own state always comes from its raw end e.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, ClassVar

from torch import Tensor

from medfl.errors import MedflError, nearest
from medfl.messages import Reply
from medfl.methods.core.context import ServerContext, SiteContext
from medfl.methods.core.registry import method_class
from medfl.model.flat_model import FlatModel


@dataclass(frozen=True)
class Method:
    """One method. Subclasses are frozen dataclasses whose fields are the hyper-parameters a pipeline may state.

    Attributes of the class:
        name: what a pipeline calls it.
        late: it acts after the other methods in every phase, because it must have the last word on a gradient.
        replaces_optimiser: it takes the optimiser's steps itself; momentum, AdamW and weight decay are refused.
        local_norms: normalisation layers (affine parameters and statistics) stay at each site.
        sends: names of the f32[P] vectors that every trained reply carries beside the update (`local.extra_up`).
        keeps_rows: it combines the updates of a round itself and needs each of them, in `server.rows`.
    """

    name: ClassVar[str]
    runs_last: ClassVar[bool] = False
    replaces_optimiser: ClassVar[bool] = False
    sends: ClassVar[tuple[str, ...]] = ()
    keeps_updates: ClassVar[bool] = False

    @property
    def min_replies(self) -> int:
        """How many replies a round needs to count."""
        return 1

    @property
    def local_norms(self) -> bool:
        """Whether normalisation layers stay at each site (they are still uploaded)."""
        return False

    def async_schedule(self, sites: int) -> tuple[int, float] | None:
        """Asks for the asynchronous schedule: for how many arrivals a merge waits, and for how many virtual seconds
        after the last of them. None leaves the schedule synchronous. Raises ValueError if `sites` are too few."""
        return None

    def check(self, model: FlatModel, optimizer: str, momentum: float, weight_decay: float) -> None:
        """Raise ValueError with one sentence if this method cannot work with the model or the local optimiser."""

    def prepare(self, model: FlatModel) -> None:
        """Take once what the method needs to know of the model, at a site and at the server alike."""

    def check_compatible(self, other: Method) -> None:
        """Raise ValueError with one sentence if this method cannot share a chain with another."""

    def before_training(self, local: SiteContext) -> None:
        """Move the start point."""

    def on_gradient(self, local: SiteContext) -> None:
        """Look at `local.gradient`, that of the loss alone, of step number `local.step` + 1."""

    def modify_gradient(self, local: SiteContext) -> None:
        """Edit `local.gradient` in place."""

    def optimizer_step(self, local: SiteContext) -> None:
        """Move `local.model.vector` by `local.gradient`, in the optimiser's place."""

    def after_step(self, local: SiteContext) -> None:
        """Look at `local.model.vector` after step number `local.step` (1..T)."""

    def on_last_gradient(self, local: SiteContext) -> None:
        """Look at `local.gradient` of step T."""

    def make_update(self, local: SiteContext) -> None:
        """Set `local.displacement`, fill `local.extra_up` and `local.new_state`."""

    def personal_models(
        self, state: Mapping[str, Tensor], received: Tensor
    ) -> Mapping[str, Tensor | tuple[Tensor, Tensor]]:
        """Further models that a site measures beside the global one, by name, from the site's state and the received
        weights: weights in wire order, or (weights, buffers) where the buffers are not the received ones."""
        return {}

    def send(self, server: ServerContext, site: str) -> dict[str, Tensor]:
        """Vectors (wire order) that go to a site beside the global model."""
        return {}

    def reject(self, server: ServerContext, reply: Reply) -> str | None:
        """Why a reply, whole and finite, is not to be taken, in one sentence; None takes it."""
        return None

    def transform_reply(self, server: ServerContext, reply: Reply) -> Reply:
        """The reply as it is taken."""
        return reply

    def aggregation_weight(self, server: ServerContext, reply: Reply) -> float | None:
        """Factor of a reply's update in the round's sum; None leaves it at the sample count."""
        return None

    def on_reply(self, server: ServerContext, reply: Reply) -> None:
        """Look at an accepted reply."""

    def aggregate(self, server: ServerContext, mean: Tensor) -> Tensor:
        """The round's mean update from the weighted mean f32[P]."""
        return mean

    def server_step(self, server: ServerContext, update: Tensor) -> Tensor:
        """What is subtracted from the global model, f32[P], given the mean update."""
        return update

    def aggregate_buffers(self, server: ServerContext, mean: Tensor) -> Tensor:
        """The new global buffers f32[B], given the sample-weighted mean of the round's."""
        return mean

    def on_validation(self, server: ServerContext, sites: Mapping[str, Mapping[str, Any]]) -> None:
        """Look at the figures of this round's training sites: {site: {"val": ..., "val_<variant>": ...}}."""

    def wire_bytes(self, server: ServerContext, site: str, direction: str, dense: int) -> int:
        """Bytes of a training message to ("down") or from ("up") a site whose vectors take `dense` bytes here."""
        return dense

    def scratch_bytes(self, steps: int, padded: int) -> int:
        """Bytes of working memory this method needs at a site, for planning."""
        return 0


PHASES = (
    *(
        "before_training",
        "on_gradient",
        "modify_gradient",
        "optimizer_step",
        "after_step",
        "on_last_gradient",
        "make_update",
        "personal_models",
    ),
    *(
        "send",
        "reject",
        "transform_reply",
        "aggregation_weight",
        "on_reply",
        "aggregate",
        "server_step",
        "aggregate_buffers",
        "on_validation",
        "wire_bytes",
    ),
)


class MethodChain:
    """The methods of a pipeline, called phase by phase."""

    def __init__(self, methods: Sequence[Method] = ()) -> None:
        self.methods = tuple(methods)
        ordered = sorted(self.methods, key=lambda method: method.runs_last)
        self._by_phase = {
            phase: tuple(method for method in ordered if getattr(type(method), phase) is not getattr(Method, phase))
            for phase in PHASES
        }

    def acts(self, phase: str) -> bool:
        """Whether any method acts in a phase."""
        return bool(self._by_phase[phase])

    def acting(self, phase: str) -> tuple[Method, ...]:
        """The methods that act in a phase."""
        return self._by_phase[phase]

    def call(self, phase: str, local: SiteContext) -> None:
        """Let every method that acts in a phase at a site act."""
        for method in self._by_phase[phase]:
            getattr(method, phase)(local)

    def async_schedule(self, sites: int) -> tuple[int, float] | None:
        """Arrivals and window of the asynchronous schedule (see `Method.wait`); None is the synchronous one.

        Raises:
            MedflError: `sites` training sites are too few for it.
        """
        for method in self.methods:
            try:
                if (wait := method.async_schedule(sites)) is not None:
                    return wait
            except ValueError as error:
                raise MedflError(f"`method.{method.name}`: {error}") from None
        return None

    @property
    def sends(self) -> tuple[str, ...]:
        """Names of the vectors that a trained reply carries beside the update."""
        return tuple(name for method in self.methods for name in method.sends)

    @property
    def keeps_updates(self) -> bool:
        """Whether any method needs every update of a round."""
        return any(method.keeps_updates for method in self.methods)

    @property
    def min_replies(self) -> int:
        """How many replies a round needs to count."""
        return max((method.min_replies for method in self.methods), default=1)

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
        if len(replacing) > 1:
            raise MedflError(f"`method`: {' and '.join(replacing)} both replace the optimiser; keep one of them")
        if replacing and (optimizer != "sgd" or momentum or weight_decay):
            raise MedflError(
                f"`method`: {replacing[0]} replaces the optimiser, so `training.optimizer` must be sgd with momentum 0 "
                f"and weight_decay 0, not {optimizer} with momentum {momentum:g} and weight_decay {weight_decay:g}"
            )
        for method in self.methods:
            try:
                method.check(model, optimizer, momentum, weight_decay)
            except ValueError as error:
                raise MedflError(f"`method.{method.name}`: {error}") from None

    def prepare(self, model: FlatModel) -> None:
        """Let every method take what it needs to know of the model."""
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
        stated = {"name": entry} if isinstance(entry, str) else dict(entry)
        name = stated.pop("name", None)
        if not isinstance(name, str):
            raise MedflError(f"`method`: each entry is a name or a mapping with `name`, not {entry!r}")
        kind = method_class(name)
        allowed = [f.name for f in dataclasses.fields(kind)]
        for key in stated:
            if key not in allowed:
                close = nearest(key, allowed)
                raise MedflError(f"`method.{name}.{key}` is no parameter of it.{close} It has: {', '.join(allowed)}")
        try:
            method = kind(**stated)
        except (TypeError, ValueError) as error:
            raise MedflError(f"`method.{name}`: {error}") from None
        if any(type(other) is kind for other in methods):
            raise MedflError(f"`method`: {name} stands twice in the chain")
        methods.append(method)
    for method, other in permutations(methods, 2):
        try:
            method.check_compatible(other)
        except ValueError as error:
            raise MedflError(f"`method`: {error}") from None
    return MethodChain(sorted(methods, key=lambda method: method.name))


def require(condition: bool, text: str) -> None:
    """Raise ValueError with `text` unless the condition holds; for `__post_init__` of methods."""
    if not condition:
        raise ValueError(text)


def number(value: Any, key: str, low: float, high: float, *, open_low: bool = False) -> None:
    """Check a hyper-parameter: a finite number in [low, high] (or (low, high] with `open_low`)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    inside = is_number and (low < value if open_low else low <= value) and value <= high
    upper = "" if math.isinf(high) else f" and at most {high:g}"
    require(inside, f"`{key}` must be a number {'above' if open_low else 'of at least'} {low:g}{upper}, not {value!r}")
