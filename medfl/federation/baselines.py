"""The two arms beside the federation: every site alone, and all training data in one place.

Both play the same rounds with the same local work as a federation, and the optimiser's state restarts every round as
everywhere, so that an arm differs from FedAvg in who shares what and in nothing else. No message leaves a site, so
they count no bytes; what pooling the data would cost is not counted either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from medfl.data.patch_store import PatchStore
from medfl.federation.rounds import Federation
from medfl.federation.server_state import ServerState
from medfl.messages import POOL, Reply
from medfl.methods.core.context import ServerContext
from medfl.site.site import Site, steps_by_site


class _Arm(Federation):
    """What the arms share: nothing is sent."""

    def _bytes(self, server: ServerContext, site: str, direction: str, dense: int, trains: bool = True) -> int:
        return 0


class LocalOnlyRounds(_Arm):
    """Each site trains its own model, all from the same initial one; held-out sites are measured at the end only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = dataclasses.replace(self.config, held_out_every=None)
        self._ended: dict[str, tuple[Tensor, Tensor]] = {}

    def _begin(self) -> None:
        super()._begin()
        self._ended = {}

    def _model(self, site: str) -> tuple[Tensor, Tensor]:
        return own_model(self.state, site)

    def _take(self, server: ServerContext, reply: Reply, bytes_up: int, entry: dict[str, Any]) -> None:
        super()._take(server, reply, bytes_up, entry)
        assert reply.update is not None
        assert reply.buffers is not None
        self._ended[reply.site] = (self._model(reply.site)[0] - reply.update, reply.buffers)

    def _advance(self, server: ServerContext, accepted: Sequence[str]) -> None:
        """Every site goes on from where it ended; there is no global update to describe."""
        for site, (weights, buffers) in self._ended.items():
            self.state.tensors |= {f"own.{site}.weights": weights, f"own.{site}.buffers": buffers}
        self.state.accepted.update(dict.fromkeys(accepted, self.state.round))


def own_model(state: ServerState, site: str) -> tuple[Tensor, Tensor]:
    """A site's own model (f32[P], f32[B]) in the `local_only` arm; the initial one before its first round."""
    return (
        state.tensors.get(f"own.{site}.weights", state.weights),
        state.tensors.get(f"own.{site}.buffers", state.buffers),
    )


class CentralisedRounds(_Arm):
    """One place trains on the pooled training data; the sites only measure. It has no line and no virtual time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.config = dataclasses.replace(self.config, site_speeds={})

    def participants(self, round_: int) -> tuple[str, ...]:
        """The pool."""
        return (POOL,)

    def _role(self, site: str) -> str:
        return "pool" if site == POOL else super()._role(site)

    def _splits(self, site: str, evaluated: bool) -> tuple[str, ...]:
        return () if site == POOL else super()._splits(site, evaluated)


def pooled_site(sites: Mapping[str, Site]) -> Site:
    """A site that holds a copy of all sites' training patches and takes as many local steps as they do together."""
    training = [sites[name] for name in sorted(sites) if sites[name].role == "train"]
    first = training[0]
    work = dataclasses.replace(first.training, local_steps=sum(steps_by_site(training).values()))
    return Site(POOL, "train", pool([site.store for site in training]), work, first.shared, first.jitter)


def pool(stores: Sequence[PatchStore]) -> PatchStore:
    """The training patches of several stores one after another, in memory; source groups stay apart."""
    rows = [store.splits["train"] for store in stores]
    images = np.concatenate([store.images[r] for store, r in zip(stores, rows, strict=True)])
    labels = np.concatenate([store.labels[r] for store, r in zip(stores, rows, strict=True)])
    groups, first = [], 0
    for store, r in zip(stores, rows, strict=True):
        groups.append(store.groups[r] + first)
        first += int(store.groups.max(initial=-1)) + 1
    digest = "+".join(store.digest for store in stores)
    return PatchStore(POOL, images, labels, np.concatenate(groups), {"train": np.arange(len(labels))}, digest)
