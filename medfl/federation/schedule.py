"""Who trains when: what decides how a round of `medfl.federation.rounds` is played.

A schedule is given to a `Federation`, which asks it in this order in every round: participants, then for each site that
is asked its model and what it measures, then how the sites are asked, what becomes of each trained reply, how time
passes until the round can be merged, how many replies make it count, and what is made of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from medfl.federation.aggregation import Aggregation
from medfl.federation.server_state import FederationConfig, RoundProgress, ServerState
from medfl.federation.transport import Transport
from medfl.federation.virtual_time import jitter_seed
from medfl.messages import Failure, Reply, Request, message_bytes
from medfl.methods.core.chain import MethodChain
from medfl.methods.core.context import ServerContext
from medfl.metrics.record_types import RecordRole, UpdateRecord
from medfl.seeds import seed_for

MakeRequest = Callable[[str], Request]  # the message to a site, made when that site is about to be asked


@dataclass(frozen=True)
class CountedMessage:
    """A message to be counted.

    Attributes:
        server: as methods see it in the round.
        direction: "down" to the site, "up" from it.
        dense: bytes of the vectors as they travel here.
        trains: whether it is a request to train, or the reply to one.
    """

    server: ServerContext
    site: str
    direction: str
    dense: int
    trains: bool = True


class FederationView(Protocol):
    """The `Federation` as a schedule sees it."""

    config: FederationConfig
    transport: Transport
    state: ServerState
    chain: MethodChain
    aggregation: Aggregation

    def note_answer(self, progress: RoundProgress, answer: Reply | Failure) -> None:
        """Note what a site answered; a trained reply that nothing speaks against goes on to `Schedule.receive`."""
        ...

    def take(self, progress: RoundProgress, reply: Reply, bytes_up: int) -> None:
        """Fold one accepted reply and note it in its site's entry of the record."""
        ...


class Schedule(Protocol):
    """What a `Federation` asks in a round. It belongs to one run; what is of one round is in `RoundProgress`."""

    def begin(self, federation: FederationView) -> FederationConfig:
        """Called once, before the first round: the federation's plan without what this schedule cannot serve."""
        ...

    def participants(self, federation: FederationView, round_: int) -> tuple[str, ...]:
        """Names of those that train in a round, sorted."""
        ...

    def model(self, federation: FederationView, site: str) -> tuple[Tensor, Tensor]:
        """The model (f32[P], f32[B]) that a site is sent."""
        ...

    def role(self, federation: FederationView, site: str) -> RecordRole:
        """What the record calls a site: "train", "held_out", "pool"."""
        ...

    def splits(self, federation: FederationView, site: str, evaluated: bool) -> tuple[str, ...]:
        """What a site that is asked measures, in a round that is evaluated or not."""
        ...

    def counted_bytes(self, federation: FederationView, message: CountedMessage) -> int:
        """What a message counts."""
        ...

    def ask(
        self,
        federation: FederationView,
        progress: RoundProgress,
        called: Sequence[str],
        request: Callable[[str], Request],
    ) -> Iterator[Reply | Failure]:
        """Ask the sites; what they answer in this round."""
        ...

    def receive(self, federation: FederationView, progress: RoundProgress, reply: Reply) -> None:
        """What becomes of a trained reply that nothing speaks against."""
        ...

    def pass_time(self, federation: FederationView, progress: RoundProgress) -> None:
        """Let time pass until the round can be merged, and take in what has arrived by then."""
        ...

    def quorum(self, federation: FederationView, training: Sequence[str]) -> int:
        """How many replies make a round count."""
        ...

    def advance(self, federation: FederationView, progress: RoundProgress) -> UpdateRecord | None:
        """Make a counted round's replies part of the state; the `update` part of the record."""
        ...

    def clock(self, federation: FederationView) -> dict[str, float]:
        """What the record says of time."""
        ...


class Synchronous:
    """Every participant is waited for; its reply is folded at once. Virtual time is the slowest participant's."""

    def begin(self, federation: FederationView) -> FederationConfig:
        """See Schedule.begin."""
        return federation.config

    def participants(self, federation: FederationView, round_: int) -> tuple[str, ...]:
        """All training sites, or `sites_per_round` of them, drawn."""
        config = federation.config
        return draw_sites(sorted(config.train_sites), config.sites_per_round, config.seed, round_)

    def model(self, federation: FederationView, site: str) -> tuple[Tensor, Tensor]:
        """The global model."""
        return federation.state.weights, federation.state.buffers

    def role(self, federation: FederationView, site: str) -> RecordRole:
        """See Schedule.role."""
        return "train" if site in federation.config.train_sites else "held_out"

    def splits(self, federation: FederationView, site: str, evaluated: bool) -> tuple[str, ...]:
        """Test data of held-out sites, validation data of training sites."""
        if self.role(federation, site) == "held_out":
            return ("test",)
        return ("val",) if evaluated else ()

    def counted_bytes(self, federation: FederationView, message: CountedMessage) -> int:
        """As the methods would encode a training message."""
        count = message.dense
        for method in federation.chain.acting("wire_bytes") if message.trains else ():
            count = method.wire_bytes(message.server, message.site, message.direction, count)
        return count

    def ask(
        self,
        federation: FederationView,
        progress: RoundProgress,
        called: Sequence[str],
        request: Callable[[str], Request],
    ) -> Iterator[Reply | Failure]:
        """All of them, and wait for every answer."""
        return federation.transport.call(called, request)

    def receive(self, federation: FederationView, progress: RoundProgress, reply: Reply) -> None:
        """Fold the reply."""
        sent = CountedMessage(progress.server, reply.site, "up", message_bytes(reply))
        bytes_up = self.counted_bytes(federation, sent)
        if federation.config.timed:
            bytes_down = progress.sites[reply.site]["bytes_down"]
            progress.slowest = max(progress.slowest, virtual_seconds(federation.config, reply, bytes_down, bytes_up))
        federation.take(progress, reply, bytes_up)

    def pass_time(self, federation: FederationView, progress: RoundProgress) -> None:
        """Until the slowest participant has replied."""
        federation.state.clock += progress.slowest

    def quorum(self, federation: FederationView, training: Sequence[str]) -> int:
        """The share of the participants that the plan states, or what a method needs."""
        return max(federation.chain.min_replies, math.ceil(federation.config.quorum * len(training)))

    def advance(self, federation: FederationView, progress: RoundProgress) -> UpdateRecord | None:
        """The global model moves by the mean update."""
        return federation.aggregation.advance(progress.server, federation.state)

    def clock(self, federation: FederationView) -> dict[str, float]:
        """Virtual seconds, where sites state their speed."""
        return {"virtual_seconds": federation.state.clock} if federation.config.timed else {}


def draw_sites(names: Sequence[str], wanted: int | None, seed: int, round_: int) -> tuple[str, ...]:
    """`wanted` of the names, seeded by run and round, sorted; all of them where None or more are wanted."""
    if wanted is None or wanted >= len(names):
        return tuple(names)
    return tuple(sorted(random.Random(seed_for(seed, "select", round_)).sample(names, wanted)))


def virtual_seconds(config: FederationConfig, reply: Reply, bytes_down: int, bytes_up: int) -> float:
    """Virtual seconds from dispatch to arrival of a trained reply."""
    draw = jitter_seed(config.seed, reply.round, reply.site)
    return config.site_speeds[reply.site].seconds(bytes_down, bytes_up, reply.steps, draw)
