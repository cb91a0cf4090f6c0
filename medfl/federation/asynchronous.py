"""The asynchronous schedule: rounds that do not wait for every site. One merge is one round.

Every round the server sends the current global model to the sites that are idle and lets time pass until enough replies
have arrived (`Method.wait`: how many, and a window after the last of them); whatever has arrived by then is merged, and
the rest stays on its way. A site that fails is a failure of the round in which that is known, and is idle in the next;
a round without an arrival does not count.

There are two clocks. On the virtual one (`Virtual`) a reply is computed when its site is sent the model, and held until
its virtual arrival, so a run is as reproducible as a synchronous one. On the wall clock (`Wall`) replies arrive when
they arrive; no two runs are alike.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from torch import Tensor

from medfl.federation.rounds import Federation
from medfl.federation.server_state import InFlightReply, RoundProgress
from medfl.federation.transport import AsyncTransport
from medfl.federation.virtual_time import closing_time
from medfl.messages import EvaluateRequest, Failure, Reply, Request, message_bytes
from medfl.methods.core.context import ServerContext


class Asynchronous(Federation):
    """What both clocks share."""

    @property
    def busy(self) -> frozenset[str]:
        """The sites at work, or with a reply on its way."""
        raise NotImplementedError

    def participants(self, round_: int) -> tuple[str, ...]:
        """The sites that are sent the model in a round, sorted by name: the idle ones, or as many of them, drawn, as
        bring the sites at work to `sites_per_round`."""
        busy = self.busy
        idle = [name for name in sorted(self.config.train_sites) if name not in busy]
        limit = self.config.sites_per_round
        return self._draw(idle, None if limit is None else max(0, limit - len(busy)), round_)

    def _quorum(self, training: Sequence[str]) -> int:
        return 1

    def _patience(self) -> tuple[int, float]:
        """For how many arrivals a merge waits, and for how many seconds after the last of them."""
        stated = self.chain.async_schedule(self.config.sites_per_round or len(self.config.train_sites))
        assert stated is not None
        return stated


class SimulatedAsync(Asynchronous):
    """On the virtual clock; every training site needs a pace in the plan."""

    @property
    def busy(self) -> frozenset[str]:
        """See Asynchronous.busy."""
        return frozenset(self.state.in_flight)

    def _receive(self, server: ServerContext, reply: Reply, entry: dict[str, Any]) -> None:
        """Hold a reply until its arrival."""
        bytes_up = self._bytes(server, reply.site, "up", message_bytes(reply))
        arrival = self.state.clock + self._seconds(reply, entry["bytes_down"], bytes_up)
        held = dataclasses.replace(reply, metrics={}, seconds={})
        self.state.in_flight[reply.site] = InFlightReply(held, self.state.weights, arrival, bytes_up)

    def _merge_arrivals(self, now: RoundProgress) -> None:
        """Let time pass to the end of the window, and take what has arrived, in the order of the sites' names."""
        flights = self.state.in_flight
        if not flights:
            return
        self.state.clock = closing_time((flight.arrival for flight in flights.values()), *self._patience())
        for name in sorted(flights):
            if flights[name].arrival <= self.state.clock:
                flight = flights.pop(name)
                now.server.received[name] = flight.received
                entry = now.sites.setdefault(name, {"role": "train", "bytes_down": 0})
                self._take(now.server, flight.reply, flight.bytes_up, entry)
                entry["age"] = now.server.ages[name]


@dataclasses.dataclass(frozen=True)
class PendingRequest:
    """A site at work: what it was sent in which round, and what it will answer."""

    round: int
    received: Tensor
    answer: Future[Reply | Failure]


class WallClockAsync(Asynchronous):
    """On the wall clock, over sites that can be asked without waiting for them.

    In a measured round the idle sites measure the model before they are sent it to train, and all wait for that; a
    site at work is not measured. After the last merge the server waits for the sites at work and drops their replies,
    so that all are measured. A run that goes on sends the model anew to every site: what was on its way is lost.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = dataclasses.replace(self.config, site_speeds={})
        transport = self.transport
        assert isinstance(transport, AsyncTransport)
        self._post = transport.post
        self._pending: dict[str, PendingRequest] = {}
        self._began = time.monotonic() - self.state.clock

    @property
    def busy(self) -> frozenset[str]:
        """See Asynchronous.busy."""
        return frozenset(self._pending)

    def _clock(self) -> dict[str, float]:
        return {"wall_seconds": self.state.clock}

    def _ask(
        self, now: RoundProgress, called: Sequence[str], request: Callable[[str], Request]
    ) -> Iterator[Reply | Failure]:
        """Have the idle sites measure, and then send them the model without waiting."""
        server, training = now.server, list(now.asked)
        now.asked.clear()
        if server.round == self.config.rounds:
            yield from self._drain()
        messages = {name: request(name) for name in called if name not in self._pending}
        yield from self.transport.call(
            [name for name in messages if messages[name].splits],
            lambda name: EvaluateRequest.of(messages[name]),
        )
        failed = {failure["site"] for failure in now.failures}
        for name in training:
            message = messages[name]
            if name not in failed:
                if message.splits:  # the model travels a second time
                    now.bytes_down[name] += message_bytes(EvaluateRequest.of(message))
                entry = now.sites.setdefault(name, {"role": "train", "bytes_up": 0})
                entry["bytes_down"] = now.bytes_down[name]
                due = self._post(name, dataclasses.replace(message, splits=()))
                self._pending[name] = PendingRequest(server.round, server.weights, due)

    def _merge_arrivals(self, now: RoundProgress) -> None:
        """Wait to the end of the window, and take what has arrived, in the order of the sites' names."""
        enough, window = self._patience()
        arrived: dict[str, PendingRequest] = {}
        good, closing = 0, None
        while self._pending and (closing is None or time.monotonic() < closing):
            left = None if closing is None else max(0.0, closing - time.monotonic())
            wait([errand.answer for errand in self._pending.values()], left, FIRST_COMPLETED)
            for name in [name for name, errand in self._pending.items() if errand.answer.done()]:
                arrived[name] = self._pending.pop(name)
                good += isinstance(arrived[name].answer.result(), Reply)
            if closing is None and good >= min(enough, good + len(self._pending)):
                closing = time.monotonic() + window
        for name in sorted(arrived):
            errand = arrived.pop(name)
            now.asked[name] = errand.round
            now.server.received[name] = errand.received
            self._answered(now, errand.answer.result())
        self.state.clock = time.monotonic() - self._began

    def _receive(self, server: ServerContext, reply: Reply, entry: dict[str, Any]) -> None:
        """Fold a reply that has arrived."""
        super()._receive(server, reply, entry)
        entry["age"] = server.ages[reply.site]

    def _drain(self) -> Iterator[Failure]:
        """Wait for the sites at work; their replies are of no round any more, their failures are told."""
        for name in sorted(self._pending):
            answer = self._pending.pop(name).answer.result()
            if isinstance(answer, Failure):
                yield answer
