"""The round loop: select -> call -> aggregate -> record. The server's state is a value that can be saved and loaded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

from torch import Tensor

from medfl.errors import RunFailed
from medfl.federation.aggregation import Aggregation
from medfl.federation.callbacks import Callback, PhaseTimer
from medfl.federation.reply_checks import is_finite, reason_to_reject
from medfl.federation.schedule import CountedMessage, Schedule, Synchronous
from medfl.federation.selection import close_early, keep_best
from medfl.federation.server_state import FederationConfig, RoundProgress, ServerState
from medfl.federation.transport import Transport
from medfl.messages import EvaluateRequest, Failure, Reply, Request, TrainRequest, message_bytes
from medfl.methods.core.chain import MethodChain
from medfl.methods.core.context import ServerContext
from medfl.methods.core.update_matrix import UpdateMatrix
from medfl.metrics.record_types import RoundRecord, SiteRecord, UpdateRecord

MAX_LOST_ROUNDS = 3  # consecutive rounds without a quorum after which a run stops


class Federation:
    """Plays rounds.

    Args:
        config: what to do.
        transport: how sites are reached.
        state: where to start; advanced in place, one whole round at a time.
        callbacks: who looks on. A `PhaseTimer` among them is told the seconds of each phase.
        chain: the method, for the methods that act at the server; by default FedAvg.
        schedule: who trains when; by default all sites in step. It belongs to this federation alone.
    """

    def __init__(
        self,
        config: FederationConfig,
        transport: Transport,
        state: ServerState,
        callbacks: Sequence[Callback] = (),
        chain: MethodChain | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        self.config = config
        self.transport = transport
        self.state = state
        self.callbacks = tuple(callbacks)
        self.chain = chain or MethodChain()
        self.schedule: Schedule = schedule or Synchronous()
        self.timer = next((each for each in self.callbacks if isinstance(each, PhaseTimer)), None) or PhaseTimer()
        self.config = self.schedule.begin(self)
        self.aggregation = Aggregation(self.config, state, self.chain)

    @property
    def last_round(self) -> int:
        """The round that only evaluates and closes the run."""
        return self.state.last_round(self.config.rounds)

    def run(self) -> ServerState:
        """Play the remaining rounds and the closing evaluation.

        Raises:
            RunFailed: `MAX_LOST_ROUNDS` rounds in a row had no quorum, and the state is the last good one; or a round's
                model is not finite, and no callback sees that round.
        """
        for callback in self.callbacks:
            callback.before_run(self.state)
        error: BaseException | None = None
        try:
            self._run_rounds()
        except BaseException as raised:
            error = raised
            raise
        finally:
            for callback in self.callbacks:
                callback.after_run(self.state, error)
        return self.state

    def _run_rounds(self) -> None:
        while self.state.round <= self.last_round:
            record = self.run_round()
            for callback in self.callbacks:
                callback.after_round(record, self.state)
            if self.state.lost >= MAX_LOST_ROUNDS:
                named = "; ".join(f"{f['site']}: {f['reason']}" for f in record["failures"])
                raise RunFailed(
                    f"{self.state.lost} rounds in a row had no quorum, the last one round {record['round']} ({named}); "
                    f"the last good weights are kept. Lower `training.optimizer.lr` if training diverges, or "
                    f"`training.quorum` if sites are missing"
                )

    def run_round(self) -> RoundRecord:
        """One round; returns its record. The state has then advanced by it."""
        config, state, t = self.config, self.state, self.state.round
        last = t == self.last_round
        training = () if last else self.schedule.participants(self, t)
        evaluated = last or t % config.evaluate_every == 0
        lr_scale = config.lr_scale(t)
        server = self.server(lr_scale, training)
        progress = RoundProgress(server, dict.fromkeys(training, t))
        self.aggregation.reset()
        self._ask(progress, training, evaluated, lr_scale)
        if evaluated:
            self._look_at_validation(progress, last)
        if not last:
            self.schedule.pass_time(self, progress)
        counted = not last and len(server.samples) >= self.schedule.quorum(self, training)
        update = self._advance(progress) if counted else None
        if server.updates is not None:
            server.updates.close()
        state.lost = 0 if counted or last else state.lost + 1
        state.round = t + 1
        record: RoundRecord = {
            "round": t,
            "evaluated": evaluated,
            "counted": counted,
            "lr_scale": lr_scale,
            "participants": list(training),
            "failures": progress.failures,
            "sites": progress.sites,
            "update": update,
        }
        return cast(RoundRecord, record | self.schedule.clock(self))

    def _ask(self, progress: RoundProgress, training: Collection[str], evaluated: bool, lr_scale: float) -> None:
        """Ask every site that has something to do in this round."""
        config, state, server, t = self.config, self.state, progress.server, self.state.round
        monitored = config.held_out_every is not None and (t == self.last_round or t % config.held_out_every == 0)
        called = set(training) | (set(config.train_sites) if evaluated else set())
        called |= set(config.held_out_sites) if monitored else set()

        def request(name: str) -> Request:
            model = self.schedule.model(self, name)
            splits, accepted = self.schedule.splits(self, name, evaluated), state.accepted.get(name, -1)
            message: Request = EvaluateRequest(t, *model, splits, accepted, state.stain_reference)
            trains = name in training
            if trains:
                others = state.stains.others(name) if state.stains else ()
                message = TrainRequest(
                    **vars(message), lr_scale=lr_scale, stain_others=others, extra=self._extra(server, name)
                )
            sent = CountedMessage(server, name, "down", message_bytes(message), trains)
            progress.bytes_down[name] = self.schedule.counted_bytes(self, sent)
            return message

        for answer in self.schedule.ask(self, progress, sorted(called), request):
            self.note_answer(progress, answer)

    def note_answer(self, progress: RoundProgress, answer: Reply | Failure) -> None:
        """Note what a site answered; a trained reply that nothing speaks against goes on to `Schedule.receive`."""
        if isinstance(answer, Reply) and (answer.trained or answer.site in progress.asked):
            reason = reason_to_reject(answer, progress.server, self.config, self.chain, progress.asked)
            progress.asked.pop(answer.site, None)
            if reason is not None:
                answer = Failure(answer.site, answer.round, reason)
        if isinstance(answer, Failure):
            progress.failures.append({"site": answer.site, "reason": answer.reason})
            return
        for phase, seconds in answer.seconds.items():
            self.timer.add(phase, seconds)
        entry = progress.sites.setdefault(answer.site, {})
        entry |= cast(SiteRecord, {split: dict(figures) for split, figures in answer.metrics.items()})
        entry["role"] = self.schedule.role(self, answer.site)
        entry |= {"bytes_down": progress.bytes_down.get(answer.site, 0), "bytes_up": 0}
        if answer.trained:
            self.schedule.receive(self, progress, answer)

    def take(self, progress: RoundProgress, reply: Reply, bytes_up: int) -> None:
        """Fold one accepted reply and note it in its site's entry of the record."""
        with self.timer.measure("aggregate"):
            reply = self.aggregation.fold(progress.server, reply)
            entry = progress.sites[reply.site]
            entry |= {"samples": reply.samples, "steps": reply.steps, "train_loss": reply.train_loss}
            entry["bytes_up"] = bytes_up

    def server(self, lr_scale: float, training: tuple[str, ...] = ()) -> ServerContext:
        """The server as methods see it in this round; tensors and facts are the state's own."""
        config, state = self.config, self.state
        return ServerContext(
            weights=state.weights,
            sites=tuple(sorted(config.train_sites)),
            participants=training,
            round=state.round,
            rounds=config.rounds,
            seed=config.seed,
            momentum=config.momentum,
            lr=config.lr * lr_scale,
            buffers=self.chain.local_layers.with_buffers(state.weights, state.buffers),
            tensors=state.tensors,
            json_state=state.json_state,
            densities=config.densities,
            methods=self.chain.methods,
            updates=UpdateMatrix(len(config.train_sites), state.weights.numel()) if self.chain.keeps_updates else None,
        )

    def _extra(self, server: ServerContext, site: str) -> dict[str, Tensor]:
        """What the methods send to a site beside the global model."""
        return {name: v for method in self.chain.acting("send") for name, v in method.send(server, site).items()}

    def _look_at_validation(self, progress: RoundProgress, last: bool) -> None:
        """Let the selection and the methods see what the training sites have measured."""
        keep_best(self.config, self.state, progress.sites)
        if not last:
            close_early(self.config, self.state)
        measured = {name: entry for name, entry in progress.sites.items() if name in self.config.train_sites}
        for method in self.chain.acting("on_validation"):
            method.on_validation(progress.server, measured)

    def _advance(self, progress: RoundProgress) -> UpdateRecord | None:
        """Make a round that counts part of the state; returns the `update` part of the record."""
        with self.timer.measure("aggregate"):
            update = self.schedule.advance(self, progress)
            if not (is_finite(self.state.weights) and is_finite(self.state.buffers)):
                raise RunFailed(
                    f"the global model is no longer finite after round {self.state.round}, though every reply was; the "
                    f"rounds before it are kept. Lower `training.optimizer.lr`, or the server's own rate"
                )
        self.state.accepted.update(dict.fromkeys(sorted(progress.server.samples), self.state.round))
        return update
