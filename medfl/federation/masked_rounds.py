"""Rounds in which the server sees the sum of the updates and none of them (`medfl.methods.core.masked_sums`).

A round asks in three steps: sites whose key is not known are asked for it; those that train send masked updates; those
whose masked updates came reveal the seeds by which the sum is unmasked. A site that fails in one of the first two is
left out of the sum. Too few sites, or one that fails in the third, and the round does not count.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from medfl.federation.schedule import CountedMessage, FederationView, Synchronous
from medfl.federation.server_state import RoundProgress, ServerState
from medfl.messages import Failure, KeyRequest, Reply, Request, TrainRequest, UnmaskRequest, message_bytes
from medfl.methods.core.masked_sums import LEAST_SITES, OWN, PAIR, Words, from_fixed, least_survivors, unmask
from medfl.metrics.record_types import UpdateRecord


@dataclass
class _Sum:
    """The masked sum of a round.

    Attributes:
        keys: site -> what it announced, of those that are asked to train behind masks.
        words: i64[P + B], the sum so far; None before the first vector.
        samples: site -> its training patches, of those in the sum.
    """

    keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tag: str = field(default_factory=lambda: secrets.token_hex(16))
    words: Words | None = None
    samples: dict[str, int] = field(default_factory=dict)


class MaskedRounds(Synchronous):
    """All participants in step, their updates summed behind masks."""

    def __init__(self) -> None:
        self._keys: dict[str, Mapping[str, str]] = {}
        self._sum = _Sum()

    def ask(
        self,
        federation: FederationView,
        progress: RoundProgress,
        called: Sequence[str],
        request: Callable[[str], Request],
    ) -> Iterator[Reply | Failure]:
        """Ask for the keys that are not known, then all of them, and wait for every answer."""
        yield from self._ask_for_keys(federation, [name for name in called if name in progress.asked])
        self._sum = _Sum({name: self._keys[name] for name in called if name in progress.asked and name in self._keys})
        enough = len(self._sum.keys) >= LEAST_SITES
        without_key = {name for name in progress.asked if name not in self._sum.keys or not enough}
        if not enough:
            few = f"{len(self._sum.keys)} sites have told a key, and a masked sum takes {LEAST_SITES}"
            yield from (Failure(name, federation.state.round, few) for name in self._sum.keys)

        def with_keys(name: str) -> Request:
            message = request(name)
            if isinstance(message, TrainRequest):
                message = dataclasses.replace(message, mask_keys=self._sum.keys, mask_tag=self._sum.tag)
            return message

        for answer in federation.transport.call([name for name in called if name not in without_key], with_keys):
            if isinstance(answer, Failure):
                self._keys.pop(answer.site, None)  # its process may have begun anew
            yield answer

    def receive(self, federation: FederationView, progress: RoundProgress, reply: Reply) -> None:
        """Add the masked vector to the sum."""
        assert reply.masked is not None
        entry = progress.sites[reply.site]
        entry |= {"samples": reply.samples, "steps": reply.steps, "train_loss": reply.train_loss}
        sent = CountedMessage(progress.server, reply.site, "up", message_bytes(reply))
        entry["bytes_up"] = self.counted_bytes(federation, sent)
        words = reply.masked.numpy()
        self._sum.words = words.copy() if self._sum.words is None else np.add(self._sum.words, words)
        self._sum.samples[reply.site] = reply.samples

    def pass_time(self, federation: FederationView, progress: RoundProgress) -> None:
        """Unmask the sum, and fold it as the updates themselves would have been."""
        survivors, keys = sorted(self._sum.samples), self._sum.keys
        least, reason = least_survivors(len(keys)), None
        if len(survivors) < least:
            reason = f"{len(survivors)} of {len(keys)} sites sent masked updates, and it takes {least} to unmask a sum"
        elif lost := self._unmask(federation, survivors):
            reason = f"{lost}, without whom the masked sum of this round cannot be unmasked"
        if reason is not None:
            progress.failures += [{"site": name, "reason": reason} for name in survivors]
            return
        assert self._sum.words is not None
        values, size = from_fixed(self._sum.words), len(federation.state.weights)
        update, buffers = (torch.from_numpy(part.astype(np.float32)) for part in (values[:size], values[size:]))
        federation.aggregation.fold_sum(progress.server, update, buffers, self._sum.samples)

    def advance(self, federation: FederationView, progress: RoundProgress) -> UpdateRecord | None:
        """See Schedule.advance. The lengths of single updates are not known."""
        update = super().advance(federation, progress)
        return None if update is None else {**update, "mean_sq": None}

    def _ask_for_keys(self, federation: FederationView, training: Sequence[str]) -> Iterator[Failure]:
        """Ask sites for their keys; the failures of those that have told none."""

        def request(name: str) -> Request:
            state = federation.state
            nothing = torch.zeros(0)
            return KeyRequest(state.round, nothing, nothing, last_accepted_round=_accepted(state, name))

        for answer in federation.transport.call([name for name in training if name not in self._keys], request):
            if isinstance(answer, Failure):
                yield answer
            else:
                self._keys[answer.site] = answer.masking

    def _unmask(self, federation: FederationView, survivors: Sequence[str]) -> str | None:
        """Take the masks out of the sum; which site did not reveal its seeds, and why, or None where all did."""
        dropped = [name for name in self._sum.keys if name not in survivors]

        def request(name: str) -> Request:
            state = federation.state
            nothing, accepted = torch.zeros(0), _accepted(state, name)
            return UnmaskRequest(
                state.round, nothing, nothing, (), accepted, tag=self._sum.tag, survivors=tuple(survivors)
            )

        own: list[bytes] = []
        pairs: dict[tuple[str, str], bytes] = {}
        lost: str | None = None
        for answer in federation.transport.call(survivors, request):
            if isinstance(answer, Failure):
                self._keys.pop(answer.site, None)
                lost = f"{answer.site} failed ({answer.reason})"
                continue
            if missing := [name for name in dropped if PAIR + name not in answer.masking]:
                lost = f"{answer.site} did not reveal its seed with {missing[0]}"
                continue
            own.append(bytes.fromhex(answer.masking[OWN]))
            pairs |= {(answer.site, name): bytes.fromhex(answer.masking[PAIR + name]) for name in dropped}
        if lost is None:
            assert self._sum.words is not None
            unmask(self._sum.words, own, pairs)
        return lost


def _accepted(state: ServerState, site: str) -> int:
    return state.accepted.get(site, -1)
