"""A method is a chain of links, and the empty chain is FedAvg.

A link overrides the phases of a round in which it acts; the order of links in a chain does not matter. At a site:

    receive   move the start point of local training (`local.model.vector`)
    gradient  edit the flat gradient `local.gradient` before the optimiser's step
    record    look at the weights after each step
    reply     set `local.displacement`, the vector that the site reports as start - endpoint

What an update is: a site receives w, starts from s, ends at e. Its endpoint is s - u, where u is the plain
displacement s - e or what a link makes of it, and it replies with w - endpoint. The new global model is the
sample-weighted mean of endpoints.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar

import torch
from torch import Tensor

from medfl.errors import MedflError, nearest
from medfl.model import FlatModel

BUILT_IN = {
    "ecgr": "medfl.methods.ecgr:Ecgr",
    "fedprox": "medfl.methods.fedprox:FedProx",
}


@dataclass
class LocalRound:
    """One site's round as links see it. Vectors are native (see medfl.model), on the training device.

    Attributes:
        model: the network in training; `model.vector` is the current point.
        received: w, the global model of this round; not to be written.
        start: s, where local training starts; equals `received` unless a link moved it.
        steps: T, local steps of this round.
        step: steps taken so far, 0..T.
        lr: this round's learning rate.
        seed: of this (run, round, site), for links that draw.
        gradient: the flat gradient during the `gradient` phase.
        displacement: u, set in the `reply` phase; None means the plain s - e.
        scratch: reusable buffers by name, shared by all sites of the process.
    """

    model: FlatModel
    received: Tensor
    start: Tensor
    steps: int
    lr: float
    seed: int
    scratch: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    gradient: Tensor | None = None
    displacement: Tensor | None = None

    def buffer(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A reusable float32 buffer of at least this shape, allocated once; contents are what they were."""
        have = self.scratch.get(name)
        if have is None or have.dim() != len(shape) or any(h < s for h, s in zip(have.shape, shape, strict=True)):
            have = torch.empty(shape, device=self.received.device)
            self.scratch[name] = have
        return have[tuple(slice(s) for s in shape)]


@dataclass(frozen=True)
class Link:
    """One method. Subclasses are frozen dataclasses whose fields are the hyper-parameters a pipeline may state."""

    name: ClassVar[str]

    def receive(self, local: LocalRound) -> None:
        """Move the start point."""

    def gradient(self, local: LocalRound) -> None:
        """Edit `local.gradient` in place."""

    def record(self, local: LocalRound) -> None:
        """Look at `local.model.vector` after step number `local.step` (1..T)."""

    def reply(self, local: LocalRound) -> None:
        """Set `local.displacement`."""

    def scratch_bytes(self, steps: int, padded: int) -> int:
        """Bytes of working memory this link needs at a site, for planning."""
        return 0


class Chain:
    """The links of a pipeline, called phase by phase."""

    def __init__(self, links: Sequence[Link] = ()) -> None:
        self.links = tuple(links)
        self._by_phase = {
            phase: tuple(link for link in self.links if getattr(type(link), phase) is not getattr(Link, phase))
            for phase in ("receive", "gradient", "record", "reply")
        }

    def acts(self, phase: str) -> bool:
        """Whether any link acts in a phase."""
        return bool(self._by_phase[phase])

    def call(self, phase: str, local: LocalRound) -> None:
        """Let every link that acts in a phase act."""
        for link in self._by_phase[phase]:
            getattr(link, phase)(local)

    def describe(self) -> list[dict[str, Any]]:
        """The chain as a pipeline would state it, every hyper-parameter spelled out."""
        return [{"name": link.name, **dataclasses.asdict(link)} for link in self.links]

    def __str__(self) -> str:
        return "+".join(link.name for link in self.links) or "fedavg"


def known_methods() -> dict[str, str]:
    """Method name -> import path, built in and from installed packages (entry points `medfl.methods`)."""
    return BUILT_IN | {entry.name: entry.value for entry in entry_points(group="medfl.methods")}


def method_class(name: str) -> type[Link]:
    """The link class of a method name. Raises MedflError with the nearest names."""
    known = known_methods()
    if name not in known:
        close = nearest(name, known)
        raise MedflError(
            f"`method`: there is no method {name!r}.{close} Known: {', '.join(sorted(known))}; [] is FedAvg"
        )
    module, _, attribute = known[name].partition(":")
    found: type[Link] = getattr(import_module(module), attribute)
    return found


def build_chain(entries: Iterable[str | Mapping[str, Any]]) -> Chain:
    """Build a chain from a pipeline's `method` list.

    Args:
        entries: names, or mappings with `name` and hyper-parameters.

    Raises:
        MedflError: unknown method or hyper-parameter (nearest shown), value out of range, a method twice.
    """
    links: list[Link] = []
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
            link = kind(**stated)
        except (TypeError, ValueError) as error:
            raise MedflError(f"`method.{name}`: {error}") from None
        if any(type(other) is kind for other in links):
            raise MedflError(f"`method`: {name} stands twice in the chain")
        links.append(link)
    return Chain(sorted(links, key=lambda link: link.name))


def require(condition: bool, text: str) -> None:
    """Raise ValueError with `text` unless the condition holds; for `__post_init__` of links."""
    if not condition:
        raise ValueError(text)


def number(value: Any, key: str, low: float, high: float, *, open_low: bool = False) -> None:
    """Check a hyper-parameter: a finite number in [low, high] (or (low, high] with `open_low`)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    inside = is_number and (low < value if open_low else low <= value) and value <= high
    upper = "" if math.isinf(high) else f" and at most {high:g}"
    require(inside, f"`{key}` must be a number {'above' if open_low else 'of at least'} {low:g}{upper}, not {value!r}")
