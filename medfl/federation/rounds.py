"""The round loop: select -> call -> aggregate -> record. The server's state is a value that can be saved and loaded."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medfl.errors import RunFailed
from medfl.federation.reply_checks import reason_to_reject
from medfl.federation.server_state import FederationConfig, RoundProgress, ServerState, WeightedMean
from medfl.federation.transport import Transport
from medfl.federation.virtual_time import jitter_seed
from medfl.messages import EvaluateRequest, Failure, Reply, Request, TrainRequest, message_bytes, squared_length
from medfl.methods.core.chain import MethodChain
from medfl.methods.core.context import ServerContext
from medfl.methods.core.update_matrix import UpdateMatrix
from medfl.metrics.measure import mean_supported
from medfl.model.layout import Slot
from medfl.seeds import seed_for

MAX_LOST_ROUNDS = 3  # consecutive rounds without a quorum after which a run stops


class Federation:
    """Plays rounds.

    Args:
        plan: what to do.
        transport: how sites are reached.
        state: where to start; advanced in place, one whole round at a time.
        after_round: called with (record, state) after each round, when the state is whole.
        chain: the method, for the methods that act at the server.
    """

    def __init__(
        self,
        plan: FederationConfig,
        transport: Transport,
        state: ServerState,
        after_round: Callable[[dict[str, Any], ServerState], None] = lambda record, state: None,
        chain: MethodChain | None = None,
    ) -> None:
        self.config = plan
        self.chain = chain or MethodChain()
        self.transport = transport
        self.state = state
        self.after_round = after_round
        self.seconds = {"train": 0.0, "evaluate": 0.0, "aggregate": 0.0}
        self._mean = WeightedMean(state)
        self._longest = 0.0

    def run(self) -> ServerState:
        """Play the remaining rounds and the closing evaluation.

        Raises:
            RunFailed: `MAX_LOST_ROUNDS` rounds in a row had no quorum. The state is the last good one.
        """
        while self.state.round <= self.config.rounds:
            record = self.run_round()
            self.after_round(record, self.state)
            if self.state.lost >= MAX_LOST_ROUNDS:
                named = "; ".join(f"{f['site']}: {f['reason']}" for f in record["failures"])
                raise RunFailed(
                    f"{self.state.lost} rounds in a row had no quorum, the last one round {record['round']} ({named}); "
                    f"the last good weights are kept. Lower `training.optimizer.lr` if training diverges, or "
                    f"`training.quorum` if sites are missing"
                )
        return self.state

    def participants(self, round_: int) -> tuple[str, ...]:
        """The sites that train in a round, sorted by name."""
        return self._draw(sorted(self.config.train_sites), self.config.sites_per_round, round_)

    def _draw(self, names: Sequence[str], wanted: int | None, round_: int) -> tuple[str, ...]:
        """`wanted` of the names, seeded by the round, sorted; all of them where None or more are wanted."""
        if wanted is None or wanted >= len(names):
            return tuple(names)
        return tuple(sorted(random.Random(seed_for(self.config.seed, "select", round_)).sample(names, wanted)))

    def run_round(self) -> dict[str, Any]:
        """One round; returns its record. The state has then advanced by it."""
        plan, state, t = self.config, self.state, self.state.round
        last = t == plan.rounds
        training = () if last else self.participants(t)
        evaluated = last or t % plan.evaluate_every == 0
        monitored = plan.held_out_every is not None and (last or t % plan.held_out_every == 0)
        called = set(training) | (set(plan.train_sites) if evaluated else set())
        called |= set(plan.held_out_sites) if monitored else set()
        lr_scale = plan.lr_scale(t)
        server = self.server(lr_scale, training)
        now = RoundProgress(server, dict.fromkeys(training, t))
        self._begin()

        def request(name: str) -> Request:
            model = (t, *self._model(name), self._splits(name, evaluated), state.accepted.get(name, -1))
            trains = name in training
            message = (
                TrainRequest(*model, lr_scale=lr_scale, extra=self._extra(server, name))
                if trains
                else EvaluateRequest(*model)
            )
            now.bytes_down[name] = self._bytes(server, name, "down", message_bytes(message), trains)
            return message

        for answer in self._ask(now, sorted(called), request):
            self._answered(now, answer)
        if evaluated:
            self._select(t, now.sites)
            measured = {name: entry for name, entry in now.sites.items() if name in plan.train_sites}
            for method in self.chain.acting("on_validation"):
                method.on_validation(server, measured)
        if not last:
            self._merge_arrivals(now)
        counted = not last and len(server.samples) >= self._quorum(training)
        update = self._advance(server, sorted(server.samples)) if counted else None
        if server.updates is not None:
            server.updates.close()
        state.lost = 0 if counted or last else state.lost + 1
        state.round = t + 1
        record = {
            "round": t,
            "evaluated": evaluated,
            "counted": counted,
            "lr_scale": lr_scale,
            "participants": list(training),
            "failures": now.failures,
            "sites": now.sites,
            "update": update,
        }
        return record | self._clock()

    def _clock(self) -> dict[str, float]:
        """What the record says of time."""
        return {"virtual_seconds": self.state.clock} if self.config.timed else {}

    def _ask(
        self, now: RoundProgress, called: Sequence[str], request: Callable[[str], Request]
    ) -> Iterator[Reply | Failure]:
        """What the sites answer in this round."""
        return self.transport.call(called, request)

    def _answered(self, now: RoundProgress, answer: Reply | Failure) -> None:
        """Note what a site answered; a trained reply that nothing speaks against goes on to `_receive`."""
        if isinstance(answer, Reply) and (answer.update is not None or answer.site in now.asked):
            reason = reason_to_reject(answer, now.server, self.config, self.chain, now.asked)
            now.asked.pop(answer.site, None)
            if reason is not None:
                answer = Failure(answer.site, answer.round, reason)
        if isinstance(answer, Failure):
            now.failures.append({"site": answer.site, "reason": answer.reason})
            return
        for phase, seconds in answer.seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        entry = now.sites.setdefault(answer.site, {})
        entry |= {split: dict(figures) for split, figures in answer.metrics.items()}
        entry |= {"role": self._role(answer.site), "bytes_down": now.bytes_down.get(answer.site, 0), "bytes_up": 0}
        if answer.update is not None:
            self._receive(now.server, answer, entry)

    def _begin(self) -> None:
        """Forget what the last round left."""
        self._mean.reset()
        self._longest = 0.0

    def _model(self, site: str) -> tuple[Tensor, Tensor]:
        """The model (f32[P], f32[B]) that a site is sent."""
        return self.state.weights, self.state.buffers

    def _role(self, site: str) -> str:
        return "train" if site in self.config.train_sites else "held_out"

    def _splits(self, site: str, evaluated: bool) -> tuple[str, ...]:
        """What a called site measures."""
        if self._role(site) == "held_out":
            return ("test",)
        return ("val",) if evaluated else ()

    def _quorum(self, training: Sequence[str]) -> int:
        """How many replies make a round count."""
        return max(self.chain.min_replies, math.ceil(self.config.quorum * len(training)))

    def _bytes(self, server: ServerContext, site: str, direction: str, dense: int, trains: bool = True) -> int:
        """What a message counts, as the methods would encode it."""
        for method in self.chain.acting("wire_bytes") if trains else ():
            dense = method.wire_bytes(server, site, direction, dense)
        return dense

    def _seconds(self, reply: Reply, bytes_down: int, bytes_up: int) -> float:
        """Virtual seconds from dispatch to arrival."""
        draw = jitter_seed(self.config.seed, reply.round, reply.site)
        return self.config.site_speeds[reply.site].seconds(bytes_down, bytes_up, reply.steps, draw)

    def _receive(self, server: ServerContext, reply: Reply, entry: dict[str, Any]) -> None:
        """What happens to a trained reply when it is there: here it is folded at once."""
        bytes_up = self._bytes(server, reply.site, "up", message_bytes(reply))
        if self.config.timed:
            self._longest = max(self._longest, self._seconds(reply, entry["bytes_down"], bytes_up))
        self._take(server, reply, bytes_up, entry)

    def _merge_arrivals(self, now: RoundProgress) -> None:
        """Let virtual time pass until the round can be merged: here until the slowest participant has replied."""
        self.state.clock += self._longest

    def server(self, lr_scale: float, training: tuple[str, ...] = ()) -> ServerContext:
        """The server as methods see it in this round; tensors and facts are the state's own."""
        plan, state = self.config, self.state
        return ServerContext(
            weights=state.weights,
            sites=tuple(sorted(plan.train_sites)),
            participants=training,
            round=state.round,
            rounds=plan.rounds,
            seed=plan.seed,
            momentum=plan.momentum,
            lr=plan.lr * lr_scale,
            buffers=state.buffers,
            tensors=state.tensors,
            json_state=state.json_state,
            densities=plan.densities,
            maskable=plan.maskable,
            methods=self.chain.methods,
            updates=UpdateMatrix(len(plan.train_sites), state.weights.numel()) if self.chain.keeps_updates else None,
        )

    def _extra(self, server: ServerContext, site: str) -> dict[str, Tensor]:
        """What the methods send to a site beside the global model."""
        return {name: v for method in self.chain.acting("send") for name, v in method.send(server, site).items()}

    def _take(self, server: ServerContext, reply: Reply, bytes_up: int, entry: dict[str, Any]) -> None:
        """Fold one accepted reply and note it in its site's entry of the record."""
        began = time.perf_counter()
        server.samples[reply.site] = reply.samples
        server.ages[reply.site] = server.round - reply.round
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
        entry |= {"samples": reply.samples, "steps": reply.steps, "train_loss": reply.train_loss}
        entry["bytes_up"] = bytes_up
        self.seconds["aggregate"] += time.perf_counter() - began

    def _advance(self, server: ServerContext, accepted: Sequence[str]) -> dict[str, Any] | None:
        """Fold the round into the state; returns the `update` part of the record."""
        began = time.perf_counter()
        state = self.state
        mean, buffers, mean_square = self._mean.finish()
        for method in self.chain.acting("aggregate"):
            mean = method.aggregate(server, mean)
        square = squared_length(mean)
        for method in self.chain.acting("server_step"):
            mean = method.server_step(server, mean)
        inertia = {
            stage: _ratio(_norm(mean, slots), _norm(state.weights, slots))
            for stage, slots in self.config.stages.items()
        }
        cosine = None
        if state.previous is not None:
            lengths = math.sqrt(squared_length(mean) * squared_length(state.previous))
            cosine = _ratio(float(torch.dot(mean, state.previous)), lengths)
        for method in self.chain.acting("aggregate_buffers"):
            buffers = method.aggregate_buffers(server, buffers)
        state.weights = state.weights - mean
        state.buffers = buffers.clone()
        state.previous = mean.clone()
        state.accepted.update(dict.fromkeys(accepted, state.round))
        self.seconds["aggregate"] += time.perf_counter() - began
        return {"mean_sq": mean_square, "sq": square, "cosine": cosine, "inertia": inertia}

    def _select(self, t: int, sites: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the model entering round t if it is the best so far by the selection metric."""
        if isinstance(self.config.select, str):
            return
        metric, mode = self.config.select
        value = selection_value(metric, sites)
        if value is None:
            return
        best = self.state.best
        if best is None or (value > best[1] if mode == "max" else value < best[1]):
            self.state.best = (t, value, self.state.weights.clone(), self.state.buffers.clone())


def selection_value(metric: str, sites: Mapping[str, Mapping[str, Any]]) -> float | None:
    """A selection metric (`val_mean_auroc`, `val_worst_auroc`, `val_mean_loss`, ...) over training sites' validation
    figures; None when no site supports it."""
    _, statistic, figure = metric.split("_", 2)
    values = [entry["val"].get(figure) for entry in sites.values() if entry["role"] == "train" and "val" in entry]
    if statistic == "worst":
        known = [v for v in values if v is not None]
        return min(known) if known else None
    return mean_supported(values)


def _norm(wire: Tensor, slots: Sequence[Slot]) -> float:
    """Euclidean length of some tensors of a wire vector."""
    return math.sqrt(sum(float(torch.linalg.vector_norm(wire[s.start : s.start + s.numel])) ** 2 for s in slots))


def _ratio(a: float, b: float) -> float | None:
    """a / b, or None where b is zero."""
    return a / b if b > 0 else None
