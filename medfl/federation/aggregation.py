"""From the replies of a round to the next global model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from medfl.federation.server_state import FederationConfig, ServerState
from medfl.messages import Reply, squared_length
from medfl.methods.core.chain import MethodChain
from medfl.methods.core.context import ServerContext
from medfl.metrics.record_types import UpdateRecord
from medfl.model.disk_vector import copied
from medfl.model.layout import Slot

TOGETHER = 4  # updates folded in one pass
WAITING = 1 << 28  # bytes of them, beyond which fewer are
CHUNK = 1 << 18  # values of the accumulator that stay in cache meanwhile


class Aggregation:
    """Lets the methods of a chain act on the replies of a round, and on their mean; `state` gives the sizes.

    What stays at sites is no part of an update here; it goes where the buffers go (`LocalLayers`). The record tells of
    the updates as the sites sent them, whatever the methods make of them.
    """

    def __init__(self, config: FederationConfig, state: ServerState, chain: MethodChain) -> None:
        self.config = config
        self.chain = chain
        self._mean = WeightedMean(state, len(chain.local_layers))
        changed = chain.acts("transform_reply") or chain.acts("aggregation_weight")
        self._sent = WeightedMean(state, len(chain.local_layers)) if changed else None

    def reset(self) -> None:
        """Forget what the last round left."""
        self._mean.reset()
        if self._sent is not None:
            self._sent.reset()

    def fold(self, server: ServerContext, reply: Reply) -> Reply:
        """Fold one accepted reply; returns it as the methods have changed it."""
        server.samples[reply.site] = reply.samples
        server.ages[reply.site] = server.round - reply.round
        reply = self.chain.local_layers.taken_out(reply, server.origin(reply.site))
        if self._sent is not None:
            self._sent.add(reply)
        factor = None
        for method in self.chain.acting("transform_reply"):
            reply = method.transform_reply(server, reply)
        for method in self.chain.acting("aggregation_weight"):
            factor = method.aggregation_weight(server, reply)
        self._mean.add(reply, factor)
        if server.updates is not None:
            server.updates.add(reply)
        for method in self.chain.acting("on_reply"):
            method.on_reply(server, reply)
        return reply

    def fold_sum(self, server: ServerContext, update: Tensor, buffers: Tensor, samples: Mapping[str, int]) -> None:
        """Fold replies of which only the sums are known, f32[P] and f32[B], and every site's samples."""
        server.samples |= samples
        server.ages |= dict.fromkeys(samples, 0)
        for mean in (self._mean, self._sent):
            if mean is not None:
                mean.add_sum(update, buffers, sum(samples.values()))

    def advance(self, server: ServerContext, state: ServerState) -> UpdateRecord:
        """Make the round part of the state; returns the `update` part of the record."""
        mean, buffers, mean_square = self._mean.finish()
        sent = mean
        if self._sent is not None:
            sent, _, mean_square = self._sent.finish()
        square = squared_length(sent)
        for method in self.chain.acting("aggregate"):
            mean = method.aggregate(server, mean)
        for method in self.chain.acting("server_step"):
            mean = method.server_step(server, mean)
        for method in self.chain.acting("aggregate_buffers"):
            buffers = method.aggregate_buffers(server, buffers)
        local = self.chain.local_layers
        step = None if len(local) else copied(mean)  # before its memory becomes the weights
        weights = torch.sub(state.weights, mean, out=self._mean.released(mean))
        weights, buffers = local.put_back(weights, buffers)
        if step is None:
            step = state.weights - weights
        inertia = {
            stage: _ratio(_norm(step, slots), _norm(state.weights, slots))
            for stage, slots in self.config.stages.items()
        }
        cosine = None
        if state.previous is not None:
            lengths = math.sqrt(squared_length(step) * squared_length(state.previous))
            cosine = _ratio(float(torch.dot(step, state.previous)), lengths)
        state.weights = weights
        state.buffers = buffers.clone()
        state.previous = step
        return {"mean_sq": mean_square, "sq": square, "cosine": cosine, "inertia": inertia}


class WeightedMean:
    """Sample-weighted mean of updates and buffers, streamed: one accumulator whatever the number of sites.

    Up to `TOGETHER` updates wait and are then added block by block, so that the accumulator passes through memory once
    for all of them; every value is added in the same order as one by one. `local` values of layers that stay at sites
    stand behind the buffers.
    """

    def __init__(self, state: ServerState, local: int = 0) -> None:
        self.update = torch.empty_like(state.weights)
        self._size = len(state.weights)
        self.buffers = torch.zeros(len(state.buffers) + local)
        self.reset()

    def reset(self) -> None:
        """Forget everything folded."""
        if not len(self.update):
            self.update = torch.empty(self._size)
        self._empty = True
        self.buffers.zero_()
        self.samples = 0
        self._weighted_square = 0.0
        self._waiting: list[tuple[Tensor, float]] = []

    def add(self, reply: Reply, factor: float | None = None) -> None:
        """Fold one reply; its update enters the sum times `factor`, by default its samples."""
        assert reply.update is not None
        assert reply.buffers is not None
        self._waiting.append((reply.update, reply.samples if factor is None else factor))
        if len(self._waiting) >= min(TOGETHER, WAITING // max(1, reply.update.nbytes)):
            self._flush()
        self.buffers.add_(reply.buffers, alpha=reply.samples)
        self.samples += reply.samples
        self._weighted_square += reply.samples * reply.square

    def add_sum(self, update: Tensor, buffers: Tensor, samples: int) -> None:
        """Fold what several replies come to, the lengths of their updates unknown."""
        self._waiting.append((update, 1.0))
        self._flush()
        self.buffers.add_(buffers)
        self.samples += samples

    def finish(self) -> tuple[Tensor, Tensor, float]:
        """(mean update f32[P], mean buffers f32[B], sum_i p_i ||D_i||^2)."""
        self._flush(self.samples)
        self.buffers.div_(self.samples)
        return self.update, self.buffers, self._weighted_square / self.samples

    def released(self, vector: Tensor) -> Tensor | None:
        """The memory of the sum, for whoever writes over it, where `vector` is the sum; otherwise None."""
        if vector is not self.update:
            return None
        self.update = vector[:0].clone()
        return vector

    def _flush(self, divisor: float | None = None) -> None:
        for begin in range(0, len(self.update), CHUNK):
            total = self.update[begin : begin + CHUNK]
            if self._empty:
                total.zero_()
            for update, factor in self._waiting:
                total.add_(update[begin : begin + CHUNK], alpha=factor)
            if divisor is not None:
                total.div_(divisor)
        self._waiting, self._empty = [], False


def _norm(wire: Tensor, slots: Sequence[Slot]) -> float:
    """Euclidean length of some tensors of a wire vector."""
    lengths = (float(torch.linalg.vector_norm(wire[s.start : s.start + s.numel])) for s in slots)
    return math.sqrt(math.fsum(length**2 for length in lengths))


def _ratio(a: float, b: float) -> float | None:
    """a / b, or None where b is zero."""
    return a / b if b > 0 else None
