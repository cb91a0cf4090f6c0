"""What methods see of a round: `SiteContext` at a site, `ServerContext` at the server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfl.methods.core.local_layers import LocalLayers
from medfl.methods.core.update_matrix import UpdateMatrix
from medfl.model.bag_network import Bags
from medfl.model.flat_model import FlatModel

WHOLE = slice(None)


@dataclass(frozen=True)
class TrainingBatch:
    """One step's batch as `Method.modify_loss` sees it, on the training device.

    Attributes:
        images: f32[N, 3, S, S], as they went through the network; or N bags of features.
        labels: i64[N].
        logits: f32[N, C], as the loss saw them.
        features: f32[N, F], what the classifier received; None unless a method declares `needs_features`.
    """

    images: Tensor | Bags
    labels: Tensor
    logits: Tensor
    features: Tensor | None = None


@dataclass
class SiteContext:
    """One site's round as methods see it. Vectors are native (see medfl.model.flat_model), on the training device.

    Attributes:
        model: the network in training; `model.vector` is the current point.
        received: w, the global model of this round, with the layers that stay at the site (FedBN) as the site has them;
            not to be written.
        start: s, where local training starts; equals `received` unless a method moved it.
        round, rounds: t and R.
        steps: T, local steps of this round.
        step: steps taken so far, 0..T.
        lr: this round's learning rate.
        seed: of this (run, round, site), for methods that draw.
        extra: wire vectors the server's methods sent, by name.
        state: what the site's methods kept when its last accepted round ended, by name; not to be written.
        new_state: what they keep now; becomes `state` once the server has accepted this round's reply.
        extra_up: wire vectors that go to the server beside the update, by name.
        gradient: the flat gradient during the phases that read it: all of it, or that of a block of values.
        columns: where that block lies in native vectors (`part`).
        displacement: u, set in `make_update`; None means the plain s - e.
        scratch: reusable buffers by name, shared by all sites of the process.
        buffers: native float buffers [B] with which the site measures the received model, on the device; not to be
            written.
        labels: i64[n], the classes of the site's training patches.
        patches: u8[n, S, S, 3], a function that gives the site's training patches.
        local_layers: what stays at the site. It is zero in every vector while a method acts, but for the forward pass
            (`modify_loss`) and `optimizer_step`.
    """

    model: FlatModel
    received: Tensor
    start: Tensor
    steps: int
    lr: float
    seed: int
    round: int = 0
    rounds: int = 1
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    new_state: dict[str, Tensor] = field(default_factory=dict)
    extra_up: dict[str, Tensor] = field(default_factory=dict)
    scratch: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    gradient: Tensor | None = None
    columns: slice = field(default_factory=lambda: WHOLE)
    displacement: Tensor | None = None
    buffers: Tensor = field(default_factory=lambda: torch.zeros(0))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    patches: Callable[[], NDArray[np.uint8]] = field(default=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    local_layers: LocalLayers = field(default_factory=LocalLayers)

    @cached_property
    def class_counts(self) -> Tensor:
        """f32[C] on the device: how many training patches of each class the site has."""
        counts = np.bincount(self.labels, minlength=len(self.model.spec.classes))
        return torch.tensor(counts, dtype=torch.float32, device=self.received.device)

    def without_local_layers(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model, its start, the received one and the gradient are zero where layers stay at the site."""
        if not len(self.local_layers):
            return contextlib.nullcontext()
        return self.local_layers.hidden((self.model.vector, self.received, self.start, self.gradient))

    def with_local_layers(self, vector: Tensor) -> Tensor:
        """A native vector [padded] that was made while a method acted, in place with the layers that stay at the site
        as training began with them: those of the site's model at the end of its last round."""
        vector[self.local_layers.native] = self.received[self.local_layers.native]
        return vector

    @property
    def first(self) -> bool:
        """Whether this is the first step, and of its gradient the first block."""
        return self.step == 0 and not self.columns.start

    def part(self, vector: Tensor) -> Tensor:
        """Those values of a native vector that `gradient` belongs to: all, or a block (`Method.elementwise`)."""
        return vector[self.columns]

    def buffer(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A reusable float32 buffer of at least this shape, allocated once; contents are what they were."""
        have = self.scratch.get(name)
        if have is None or have.dim() != len(shape) or any(h < s for h, s in zip(have.shape, shape, strict=True)):
            have = torch.empty(shape, device=self.received.device)
            self.scratch[name] = have
        return have[tuple(slice(s) for s in shape)]

    def vector(self, name: str) -> Tensor:
        """A reusable native vector [padded], its padding zero."""
        if name not in self.scratch:
            self.scratch[name] = torch.zeros_like(self.received)
        return self.scratch[name]

    def wire(self, name: str) -> Tensor:
        """A reusable vector f32[P] in wire order, on the CPU; contents are what they were."""
        if name not in self.scratch:
            self.scratch[name] = torch.empty(self.model.layout.size)
        return self.scratch[name]

    def unpack(self, name: str) -> Tensor:
        """A server's extra vector in native order, in a reusable buffer of the same name."""
        return self.model.layout.unpack(self.extra[name], self.vector(name))


@dataclass
class ServerContext:
    """The server as methods see it. Vectors are in wire order, on the CPU.

    Attributes:
        weights: f32[P], the global model entering the round.
        buffers: f32[B + L], its float buffers (BatchNorm statistics), and behind them the L values of layers that stay
            at sites (FedBN), as in the replies; updates are zero there.
        sites: names of all training sites, sorted.
        participants: names of those that were asked to train in this round, sorted.
        round, rounds: t and R.
        seed: of the run.
        momentum, lr: of the sites' optimiser, this round's schedule included.
        tensors: the methods' own vectors by name, saved with the state.
        json_state: the methods' own numbers by name (JSON), saved with the state.
        round_sums: vectors summed over this round's replies, by name; forgotten when the round does not count.
        updates: every update of this round, where a method needs them (`Method.keeps_updates`).
        samples: site -> training patches n_i, of the replies taken so far in this round.
        ages: site -> rounds between the dispatch of its reply and this one; 0 in the synchronous schedule.
        received: site -> the global model that its reply started from, where that is older than `weights`.
        densities: site -> initial capacity in (0, 1], where a site states one.
        methods: those of the chain, so that one may ask for another.
    """

    weights: Tensor
    sites: tuple[str, ...]
    participants: tuple[str, ...] = ()
    round: int = 0
    rounds: int = 1
    seed: int = 0
    momentum: float = 0.0
    lr: float = 0.0
    buffers: Tensor = field(default_factory=lambda: torch.zeros(0))
    tensors: dict[str, Tensor] = field(default_factory=dict)
    json_state: dict[str, Any] = field(default_factory=dict)
    round_sums: dict[str, Tensor] = field(default_factory=dict)
    updates: UpdateMatrix | None = None
    samples: dict[str, int] = field(default_factory=dict)
    ages: dict[str, int] = field(default_factory=dict)
    received: dict[str, Tensor] = field(default_factory=dict)
    densities: Mapping[str, float] = field(default_factory=dict)
    methods: Sequence[object] = ()

    def origin(self, site: str) -> Tensor:
        """f32[P]: the global model that a site's reply in hand started from."""
        return self.received.get(site, self.weights)
