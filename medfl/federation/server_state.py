"""The server's values: the plan of a run, the state carried from round to round, a round while it is played."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from medfl.federation.stain_agreement import StainAgreement
from medfl.federation.virtual_time import SiteSpeed
from medfl.messages import Reply
from medfl.methods.core.context import ServerContext
from medfl.metrics.record_types import FailureRecord, SiteRecord
from medfl.model.layout import Slot


@dataclass(frozen=True)
class FederationConfig:
    """What the round loop needs to know.

    Attributes:
        train_sites, held_out_sites: names; their order does not matter.
        rounds: R; round t = 0..R-1 trains, t = R only evaluates.
        sites_per_round: participants drawn per round; None means all.
        quorum: share of participants that must reply for a round to count.
        evaluate_every: all training sites are measured on validation data every so many rounds, and at t = R.
        held_out_every: monitoring of held-out sites' test data every so many rounds; None means never.
        lr_scale: round -> factor on the learning rate.
        select: "last", or (metric, mode) as in `selection_value`.
        patience: rounds without a better value of that metric after which the run closes; None plays all.
        stages: stage of the network -> its slots, for inertia.
        momentum, lr: of the sites' optimiser, for methods that act at the server.
        site_speeds: site -> how fast it is, where site files state a `link`.
        densities: site -> its initial capacity in (0, 1], for methods that cut sub-models.
        fingerprint: the architecture that replies must be of (`FlatModel.fingerprint`); "" leaves it unchecked.
        masked: whether updates are sent behind masks (`medfl.federation.masked_rounds`).
    """

    train_sites: tuple[str, ...]
    held_out_sites: tuple[str, ...]
    rounds: int
    seed: int
    stages: Mapping[str, Sequence[Slot]]
    sites_per_round: int | None = None
    quorum: float = 0.5
    evaluate_every: int = 1
    held_out_every: int | None = None
    lr_scale: Callable[[int], float] = lambda t: 1.0
    select: str | tuple[str, str] = "last"
    patience: int | None = None
    momentum: float = 0.0
    lr: float = 0.0
    site_speeds: Mapping[str, SiteSpeed] = field(default_factory=dict)
    densities: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    masked: bool = False

    @property
    def timed(self) -> bool:
        """Whether virtual time is known: every training site states its pace."""
        return all(site in self.site_speeds for site in self.train_sites)


@dataclass(frozen=True)
class InFlightReply:
    """A reply on its way, in the asynchronous schedule.

    Attributes:
        reply: what arrives; its round is that of the dispatch.
        received: f32[P], the global model that the site was sent.
        arrival: virtual seconds since the start of the run.
        bytes_up: what the reply counts.
    """

    reply: Reply
    received: Tensor
    arrival: float
    bytes_up: int


@dataclass
class ServerState:
    """Everything the server carries from round to round. Vectors are in wire order.

    Attributes:
        round: the next round t to play.
        weights, buffers: the global model entering round t.
        previous: the last counted global update w_{t-1} - w_t, for `update_cosine`.
        accepted: site -> last round whose reply was aggregated.
        best: round, value, weights and buffers of the best model so far, when selection is by a metric.
        closing: the round that closes the run early, evaluating only; None where that is the last one planned.
        lost: consecutive rounds that did not count.
        tensors, json_state: what the chain's methods keep at the server, by name; a tensor is replaced, never written
            to.
        clock: virtual seconds since the start; stays 0 where sites state no pace.
        in_flight: site -> its reply on the way, in the asynchronous schedule.
        stains: what sites are sent of stains; None where nothing was agreed on.
    """

    round: int
    weights: Tensor
    buffers: Tensor
    previous: Tensor | None = None
    accepted: dict[str, int] = field(default_factory=dict)
    best: tuple[int, float, Tensor, Tensor] | None = None
    closing: int | None = None
    lost: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    json_state: dict[str, Any] = field(default_factory=dict)
    clock: float = 0.0
    in_flight: dict[str, InFlightReply] = field(default_factory=dict)
    stains: StainAgreement | None = None

    @property
    def stain_reference(self) -> tuple[float, ...]:
        """Numbers of the stain that all patches are brought to; none where they stay."""
        return self.stains.reference if self.stains else ()

    def last_round(self, planned: int) -> int:
        """The round that only evaluates and closes the run: the last one planned, or an earlier one."""
        return planned if self.closing is None else self.closing

    def snapshot(self) -> ServerState:
        """This state as a value that later rounds leave alone. Tensors are shared: a round replaces them and never
        writes to them."""
        return replace(
            self,
            accepted=dict(self.accepted),
            tensors=dict(self.tensors),
            in_flight=dict(self.in_flight),
            json_state=copy.deepcopy(self.json_state),
        )


@dataclass
class RoundProgress:
    """A round while it is played.

    Attributes:
        server: as methods see it.
        asked: site -> the round of the request whose trained reply is due.
        sites, failures: those parts of the record, as they grow.
        bytes_down: what each site was sent in this round.
        slowest: virtual seconds of the slowest reply so far, where all are waited for.
    """

    server: ServerContext
    asked: dict[str, int]
    sites: dict[str, SiteRecord] = field(default_factory=dict)
    failures: list[FailureRecord] = field(default_factory=list)
    bytes_down: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0
