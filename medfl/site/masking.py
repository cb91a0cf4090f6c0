"""A site's part in masked sums: it announces a key, masks what it sends, and reveals its seeds once.

medfl.methods.core.masked_sums says how masks cancel. What holds at a site whatever a server asks: it masks with the
keys of at least `LEAST_SITES` sites, its own among them; no two sums have one tag; and of each sum it reveals once,
where more than half of the sites are in it, the seeds that it shares with the sites that are not, and its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from medfl.errors import MedflError
from medfl.messages import KeyRequest, Reply, Request, TrainRequest, UnmaskRequest
from medfl.methods.core.masked_sums import (
    KEY,
    LEAST_SITES,
    OWN,
    PAIR,
    SEED,
    MaskKey,
    least_survivors,
    mask,
    new_seed,
    to_fixed,
)

TAG = 64  # characters


class MaskRefused(MedflError):
    """What the server asks of a masked sum is not done; the sentence is made of numbers and names."""


class KeyIdentity(Protocol):
    """Who a site is to the others: the key of its kit, where there is one."""

    def sign(self, site: str, key: str) -> Mapping[str, str]:
        """What goes with an announced key, hexadecimal text by name."""
        ...

    def check(self, site: str, announced: Mapping[str, str]) -> str | None:
        """Why an announcement is not that site's, in one sentence; None where it is."""
        ...


@dataclass(frozen=True)
class _Sum:
    own: bytes
    pairs: Mapping[str, bytes]


class Masking:
    """One site's keys and seeds, for as long as its process lives.

    Args:
        site: name.
        identity: what signs this site's key, and checks those of others; None where there are no kits.
    """

    def __init__(self, site: str, identity: KeyIdentity | None = None) -> None:
        self.site = site
        self.identity = identity
        self._key: MaskKey | None = None
        self._tags: set[str] = set()
        self._open: dict[str, _Sum] = {}

    def answer(self, request: Request, handle: Callable[[Request], Reply], equally: bool) -> Reply:
        """The answer to a message of a site whose updates leave it behind masks only.

        Args:
            handle: gives the answers that need no masks.
            equally: whether updates count once each, and not times their samples.

        Raises:
            MaskRefused: what is asked would tell more than a sum.
        """
        if isinstance(request, KeyRequest):
            return Reply(self.site, request.round, masking=self.announce())
        if isinstance(request, UnmaskRequest):
            return Reply(self.site, request.round, masking=self.reveal(request))
        if not isinstance(request, TrainRequest):
            return handle(request)
        self.check(request)  # before it trains for nothing
        return self.masked(handle(request), request, equally)

    def announce(self) -> dict[str, str]:
        """This site's public key, and what its kit says to it."""
        key = self._own_key().public.hex()
        return {KEY: key, **(self.identity.sign(self.site, key) if self.identity else {})}

    def masked(self, reply: Reply, request: TrainRequest, equally: bool) -> Reply:
        """A trained reply with its update and buffers masked, the update times 1 (`equally`) or the samples, the
        buffers times the samples. The request has passed `check`. Raises MaskRefused."""
        assert reply.update is not None
        assert reply.buffers is not None
        others = {name: bytes.fromhex(said[KEY]) for name, said in request.mask_keys.items() if name != self.site}
        parts = (reply.update, 1.0 if equally else reply.samples), (reply.buffers, reply.samples)
        try:
            words = to_fixed(parts, len(request.mask_keys))
            pairs = {name: self._own_key().seed(key, request.mask_tag) for name, key in others.items()}
        except ValueError as error:
            raise MaskRefused(str(error)) from None
        own = new_seed()
        mask(words, self.site, own, pairs)
        self._tags.add(request.mask_tag)
        self._open = {request.mask_tag: _Sum(own, pairs)}
        return dataclasses.replace(reply, update=None, buffers=None, masked=torch.from_numpy(words))

    def check(self, request: TrainRequest) -> None:
        """Raise MaskRefused unless the keys and the tag of a request are such that an update may go behind them."""
        keys, tag = request.mask_keys, request.mask_tag
        if not keys:
            raise MaskRefused(f"{self.site} sends its update behind masks only, and was sent no keys for them")
        if keys.get(self.site, {}).get(KEY) != self._own_key().public.hex():
            raise MaskRefused(f"the key of {self.site} is not that of its process, which has begun anew")
        if len(keys) < LEAST_SITES:
            raise MaskRefused(f"a masked sum of {len(keys)} sites hides too little; it takes {LEAST_SITES}")
        if not tag.isalnum() or len(tag) > TAG or tag in self._tags:
            raise MaskRefused("a masked sum has a name of letters and digits that was not used before")
        for name, said in keys.items():
            if len(said.get(KEY, "")) != 2 * SEED:
                raise MaskRefused(f"what is called the key of {name} is none")
            if self.identity and (reason := self.identity.check(name, said)):
                raise MaskRefused(reason)

    def reveal(self, request: UnmaskRequest) -> dict[str, str]:
        """This site's own seed of a sum, and those that it shares with the sites whose vectors are not in it. Once.
        Raises MaskRefused."""
        asked = self._open.get(request.tag)
        survivors = set(request.survivors)
        if asked is None:
            raise MaskRefused(f"{self.site} has no masks of that sum, or has revealed them")
        if self.site not in survivors or not survivors <= {self.site, *asked.pairs}:
            raise MaskRefused(f"the sum that {self.site} is to unmask is not one that it is in")
        least = least_survivors(len(asked.pairs) + 1)
        if len(survivors) < least:
            raise MaskRefused(
                f"{len(survivors)} of {len(asked.pairs) + 1} sites are in the sum, and it takes {least} to unmask it"
            )
        del self._open[request.tag]
        pairs = {PAIR + name: seed.hex() for name, seed in asked.pairs.items() if name not in survivors}
        return {OWN: asked.own.hex(), **pairs}

    def _own_key(self) -> MaskKey:
        if self._key is None:
            self._key = MaskKey()
        return self._key
