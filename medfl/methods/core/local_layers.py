"""Layers that stay at each site (`Method.local_norms`): what keeps every method away from them, whatever it does.

They are trained at the site and uploaded, so that a global model exists, but they are no part of what sites agree on.
So no method sees them as weights. At a site they are zero in every vector while a method acts: a pull to the received
model, a correction, a step kept for later or a length has no part in them, and what a method writes there is dropped.
At the server they are taken out of the update and stand behind the buffers (BatchNorm statistics), whose rules then
hold for them: a weighted mean, or what a method makes of buffers.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medfl.messages import Reply
from medfl.model.layout import Slot


def _no_index() -> Tensor:
    return torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True)
class LocalLayers:
    """Where the L values lie that stay at each site; by default there are none.

    Attributes:
        native: i64[L], in native vectors.
        wire: i64[L], in wire order.
    """

    native: Tensor = field(default_factory=_no_index)
    wire: Tensor = field(default_factory=_no_index)

    @classmethod
    def of(cls, slots: Iterable[Slot], device: torch.device | None = None) -> LocalLayers:
        """Those of these slots; `native` lies on the device."""
        pairs = [(torch.arange(slot.numel) + slot.offset, torch.arange(slot.numel) + slot.start) for slot in slots]
        if not pairs:
            return cls()
        native, wire = (torch.cat(part) for part in zip(*pairs, strict=True))
        return cls(native.to(device or "cpu"), wire)

    def __len__(self) -> int:
        return len(self.wire)

    @contextlib.contextmanager
    def hidden(self, vectors: Iterable[Tensor | None]) -> Iterator[None]:
        """Inside, these native vectors are zero where layers stay at the site; afterwards they are as before there."""
        different = {id(vector): vector for vector in vectors if vector is not None}.values()
        own = [(vector, vector[self.native]) for vector in different]
        for vector, _ in own:
            vector[self.native] = 0.0
        try:
            yield
        finally:
            for vector, values in own:
                vector[self.native] = values

    def with_buffers(self, weights: Tensor, buffers: Tensor) -> Tensor:
        """f32[B + L]: buffers, and behind them the layers that stay at sites, of a model in wire order."""
        return torch.cat([buffers, weights[self.wire]]) if len(self) else buffers

    def taken_out(self, reply: Reply, received: Tensor) -> Reply:
        """A trained reply to the model `received` (f32[P]) as methods at the server see it: its update is zero where
        layers stay at the site, and the site's own layers stand behind its buffers."""
        if not len(self):
            return reply
        assert reply.update is not None
        assert reply.buffers is not None
        update = reply.update.clone()
        update[self.wire] = 0.0
        return dataclasses.replace(
            reply, update=update, buffers=self.with_buffers(received - reply.update, reply.buffers)
        )

    def put_back(self, weights: Tensor, buffers: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `with_buffers`: (f32[P], f32[B]) from weights f32[P] and buffers f32[B + L]."""
        if not len(self):
            return weights, buffers
        weights = weights.clone()
        weights[self.wire] = buffers[-len(self) :]
        return weights, buffers[: -len(self)]
