"""The asynchronous schedule: an event-driven round loop on a virtual clock. One merge is one round.

Every round the server sends the current global model to the sites that are idle and lets virtual time pass until
enough replies have arrived (`Link.wait`: how many, and a window after the last of them); whatever has arrived by then
is merged, and the rest stays on its way. A reply is computed when its site is sent the model, and held until its
virtual arrival, so a run is as reproducible as a synchronous one. A site that fails is a failure of the round in
which it was sent the model, and is idle in the next; a round without an arrival does not count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from medfl.clock import closing_time
from medfl.federation import Federation
from medfl.methods.context import Server
from medfl.protocol import Reply, reply_bytes
from medfl.server import Flight


class Asynchronous(Federation):
    """A federation whose sites do not wait for each other; every training site needs a pace in the plan."""

    def participants(self, round_: int) -> tuple[str, ...]:
        """The sites that are sent the model in a round, sorted by name: the idle ones, or as many of them, drawn, as
        bring the sites at work to `sites_per_round`."""
        idle = [name for name in sorted(self.plan.train_sites) if name not in self.state.flights]
        limit = self.plan.sites_per_round
        return self._draw(idle, None if limit is None else max(0, limit - len(self.state.flights)), round_)

    def _quorum(self, training: Sequence[str]) -> int:
        return 1

    def _receive(self, server: Server, reply: Reply, entry: dict[str, Any]) -> None:
        """Hold a reply until its arrival."""
        bytes_up = self._bytes(server, reply.site, "up", reply_bytes(reply))
        arrival = self.state.clock + self._seconds(reply, entry["bytes_down"], bytes_up)
        held = dataclasses.replace(reply, metrics={}, seconds={})
        self.state.flights[reply.site] = Flight(held, self.state.weights, arrival, bytes_up)

    def _wait(self, server: Server, sites: dict[str, dict[str, Any]]) -> None:
        """Let time pass to the end of the window, and take what has arrived, in the order of the sites' names."""
        flights = self.state.flights
        if not flights:
            return
        wait = self.chain.wait(self.plan.sites_per_round or len(self.plan.train_sites))
        assert wait is not None
        self.state.clock = closing_time((flight.arrival for flight in flights.values()), *wait)
        for name in sorted(flights):
            if flights[name].arrival <= self.state.clock:
                flight = flights.pop(name)
                server.received[name] = flight.received
                entry = sites.setdefault(name, {"role": "train", "bytes_down": 0})
                self._take(server, flight.reply, flight.bytes_up, entry)
                entry["age"] = server.ages[name]
