"""The two baselines that bracket every federation: every site alone, and all training data in one place.

Both play the same rounds with the same local work as a federation, and the optimiser's state restarts every round as
everywhere, so that a baseline differs from FedAvg in who shares what and in nothing else. No message leaves a site, so
they count no bytes; what pooling the data would cost is not counted either.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from medfl.federation.schedule import CountedMessage, FederationView, Synchronous
from medfl.federation.server_state import FederationConfig, RoundProgress, ServerState
from medfl.messages import POOL, Reply
from medfl.metrics.record_types import RecordRole, UpdateRecord


class LocalOnly(Synchronous):
    """Each site trains its own model, all from the same initial one; held-out sites are measured at the end only."""

    def begin(self, federation: FederationView) -> FederationConfig:
        """There is no one model to watch at held-out sites."""
        return dataclasses.replace(federation.config, held_out_every=None)

    def model(self, federation: FederationView, site: str) -> tuple[Tensor, Tensor]:
        """The site's own."""
        return own_model(federation.state, site)

    def counted_bytes(self, federation: FederationView, message: CountedMessage) -> int:
        """Nothing is sent."""
        return 0

    def receive(self, federation: FederationView, progress: RoundProgress, reply: Reply) -> None:
        """Remember where the site ended."""
        super().receive(federation, progress, reply)
        assert reply.update is not None
        assert reply.buffers is not None
        end = self.model(federation, reply.site)[0] - reply.update
        progress.server.round_sums |= {f"own.{reply.site}.weights": end, f"own.{reply.site}.buffers": reply.buffers}

    def advance(self, federation: FederationView, progress: RoundProgress) -> UpdateRecord | None:
        """Every site goes on from where it ended; there is no global update to describe."""
        federation.state.tensors |= progress.server.round_sums
        return None


def has_own_model(state: ServerState, site: str) -> bool:
    """Whether a site has trained with `local_only`."""
    return f"own.{site}.weights" in state.tensors


def own_model(state: ServerState, site: str) -> tuple[Tensor, Tensor]:
    """A site's own model (f32[P], f32[B]) with `local_only`; the initial one before its first round."""
    return (
        state.tensors.get(f"own.{site}.weights", state.weights),
        state.tensors.get(f"own.{site}.buffers", state.buffers),
    )


class Centralised(Synchronous):
    """One place trains on the pooled training data; the sites only measure. It has no line and no virtual time."""

    def begin(self, federation: FederationView) -> FederationConfig:
        """See the class."""
        return dataclasses.replace(federation.config, site_speeds={})

    def participants(self, federation: FederationView, round_: int) -> tuple[str, ...]:
        """The pool."""
        return (POOL,)

    def role(self, federation: FederationView, site: str) -> RecordRole:
        """The pool is a site of role "pool"."""
        return "pool" if site == POOL else super().role(federation, site)

    def splits(self, federation: FederationView, site: str, evaluated: bool) -> tuple[str, ...]:
        """The pool measures nothing: its patches are the sites'."""
        return () if site == POOL else super().splits(federation, site, evaluated)

    def counted_bytes(self, federation: FederationView, message: CountedMessage) -> int:
        """Nothing is sent."""
        return 0
