"""The asynchronous schedules: rounds that do not wait for every site. One merge is one round.

Every round the server sends the current global model to the sites that are idle and lets time pass until enough replies
have arrived (`Method.async_schedule`: how many, and a window after the last of them); whatever has arrived by then is
merged, and the rest stays on its way. A site that fails is a failure of the round in which that is known, and is idle
in the next; a round without an arrival does not count.

There are two clocks. On the virtual one (`SimulatedAsync`) a reply is computed when its site is sent the model, and
kept until its virtual arrival, so a run is as reproducible as a synchronous one. On the wall clock (`WallClockAsync`)
replies arrive when they arrive; no two runs are alike.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from torch import Tensor

from medfl.federation.schedule import (
    CountedMessage,
    FederationView,
    Synchronous,
    draw_sites,
    virtual_seconds,
)
from medfl.federation.server_state import FederationConfig, InFlightReply, RoundProgress
from medfl.federation.transport import AsyncTransport
from medfl.federation.virtual_time import closing_time
from medfl.messages import EvaluateRequest, Failure, Reply, Request, message_bytes


def idle_sites(config: FederationConfig, busy: Collection[str], round_: int) -> tuple[str, ...]:
    """The sites that are sent the model in a round, sorted by name: the idle ones, or as many of them, drawn, as bring
    the sites at work to `sites_per_round`."""
    idle = [name for name in sorted(config.train_sites) if name not in busy]
    limit = config.sites_per_round
    return draw_sites(idle, None if limit is None else max(0, limit - len(busy)), config.seed, round_)


def patience(federation: FederationView) -> tuple[int, float]:
    """For how many arrivals a merge waits, and for how many seconds after the last of them."""
    config = federation.config
    schedule = federation.chain.async_schedule(config.sites_per_round or len(config.train_sites))
    assert schedule is not None
    return schedule


class SimulatedAsync(Synchronous):
    """On the virtual clock; every training site needs a speed in the plan."""

    def participants(self, federation: FederationView, round_: int) -> tuple[str, ...]:
        """The sites without a reply on its way."""
        return idle_sites(federation.config, federation.state.in_flight, round_)

    def quorum(self, federation: FederationView, training: Sequence[str]) -> int:
        """One arrival."""
        return 1

    def receive(self, federation: FederationView, progress: RoundProgress, reply: Reply) -> None:
        """Keep the reply until its arrival."""
        state = federation.state
        bytes_down = progress.sites[reply.site]["bytes_down"]
        sent = CountedMessage(progress.server, reply.site, "up", message_bytes(reply))
        bytes_up = self.counted_bytes(federation, sent)
        arrival = state.clock + virtual_seconds(federation.config, reply, bytes_down, bytes_up)
        on_its_way = dataclasses.replace(reply, metrics={}, seconds={})
        state.in_flight[reply.site] = InFlightReply(on_its_way, state.weights, arrival, bytes_up)

    def pass_time(self, federation: FederationView, progress: RoundProgress) -> None:
        """To the end of the window; what has arrived is taken in the order of the sites' names."""
        state, flights = federation.state, federation.state.in_flight
        if not flights:
            return
        state.clock = closing_time((flight.arrival for flight in flights.values()), *patience(federation))
        for name in sorted(flights):
            if flights[name].arrival <= state.clock:
                flight = flights.pop(name)
                progress.server.received[name] = flight.received
                entry = progress.sites.setdefault(name, {"role": "train", "bytes_down": 0})
                federation.take(progress, flight.reply, flight.bytes_up)
                entry["age"] = progress.server.ages[name]


@dataclasses.dataclass(frozen=True)
class PendingRequest:
    """A site at work: what it was sent in which round, and what it will answer."""

    round: int
    received: Tensor
    answer: Future[Reply | Failure]


class WallClockAsync(Synchronous):
    """On the wall clock, over sites that can be asked without waiting for them.

    In a measured round the idle sites measure the model before they are sent it to train, and all wait for that; a
    site at work is not measured. After the last merge the server waits for the sites at work and drops their replies,
    so that all are measured. A run that goes on sends the model anew to every site: what was on its way is lost.
    """

    def __init__(self) -> None:
        self.pending: dict[str, PendingRequest] = {}
        self._began = 0.0

    def begin(self, federation: FederationView) -> FederationConfig:
        """Set the clock going; what lines the sites state is of no matter."""
        self._began = time.monotonic() - federation.state.clock
        return dataclasses.replace(federation.config, site_speeds={})

    def participants(self, federation: FederationView, round_: int) -> tuple[str, ...]:
        """The sites that are not at work."""
        return idle_sites(federation.config, self.pending, round_)

    def quorum(self, federation: FederationView, training: Sequence[str]) -> int:
        """One arrival."""
        return 1

    def clock(self, federation: FederationView) -> dict[str, float]:
        """Seconds since the run began."""
        return {"wall_seconds": federation.state.clock}

    def ask(
        self,
        federation: FederationView,
        progress: RoundProgress,
        called: Sequence[str],
        request: Callable[[str], Request],
    ) -> Iterator[Reply | Failure]:
        """Have the idle sites measure, and then send them the model without waiting."""
        server, training, transport = progress.server, list(progress.asked), federation.transport
        assert isinstance(transport, AsyncTransport)
        progress.asked.clear()
        if server.round == federation.config.rounds:
            yield from self._drain()
        messages = {name: request(name) for name in called if name not in self.pending}
        yield from transport.call(
            [name for name in messages if messages[name].splits],
            lambda name: EvaluateRequest.of(messages[name]),
        )
        failed = {failure["site"] for failure in progress.failures}
        for name in training:
            message = messages[name]
            if name not in failed:
                if message.splits:  # the model travels a second time
                    progress.bytes_down[name] += message_bytes(EvaluateRequest.of(message))
                entry = progress.sites.setdefault(name, {"role": "train", "bytes_up": 0})
                entry["bytes_down"] = progress.bytes_down[name]
                answer = transport.post(name, dataclasses.replace(message, splits=()))
                self.pending[name] = PendingRequest(server.round, server.weights, answer)

    def receive(self, federation: FederationView, progress: RoundProgress, reply: Reply) -> None:
        """Fold a reply that has arrived."""
        super().receive(federation, progress, reply)
        progress.sites[reply.site]["age"] = progress.server.ages[reply.site]

    def pass_time(self, federation: FederationView, progress: RoundProgress) -> None:
        """To the end of the window; what has arrived is taken in the order of the sites' names."""
        arrived = self._wait(*patience(federation))
        for name in sorted(arrived):
            request = arrived.pop(name)
            progress.asked[name] = request.round
            progress.server.received[name] = request.received
            federation.note_answer(progress, request.answer.result())
        federation.state.clock = time.monotonic() - self._began

    def _wait(self, enough: int, window: float) -> dict[str, PendingRequest]:
        """What has been answered `window` seconds after the reply number `enough`; failures do not count."""
        arrived: dict[str, PendingRequest] = {}
        replies, closing = 0, None
        while self.pending and (closing is None or time.monotonic() < closing):
            left = None if closing is None else max(0.0, closing - time.monotonic())
            wait([request.answer for request in self.pending.values()], left, FIRST_COMPLETED)
            for name in [name for name, request in self.pending.items() if request.answer.done()]:
                arrived[name] = self.pending.pop(name)
                replies += isinstance(arrived[name].answer.result(), Reply)
            if closing is None and replies >= min(enough, replies + len(self.pending)):
                closing = time.monotonic() + window
        return arrived

    def _drain(self) -> Iterator[Failure]:
        """Wait for the sites at work; their replies are of no round any more, their failures are reported."""
        for name in sorted(self.pending):
            answer = self.pending.pop(name).answer.result()
            if isinstance(answer, Failure):
                yield answer
