"""Who looks on while a federation runs, and the first of them: what counts its wall time by phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

from medfl.federation.server_state import ServerState
from medfl.metrics.record_types import RoundRecord

ROUND_PHASES = ("train", "evaluate", "aggregate")


class Callback:
    """Three hooks around the rounds of a run; each does nothing unless overridden. Callbacks are called in their order.

    An error of a hook ends the run.
    """

    def before_run(self, state: ServerState) -> None:
        """Before the first round that is left to play."""

    def after_round(self, record: RoundRecord, state: ServerState) -> None:
        """After each round, when the state is whole. What is changed in the record, later callbacks see."""

    def after_run(self, state: ServerState, error: BaseException | None) -> None:
        """After the last round, or when the run ends by `error`, which is raised afterwards."""


class PhaseTimer(Callback):
    """Seconds by phase.

    Attributes:
        seconds: of the run so far, its earlier parts included.
        round_seconds: of the last round; all of `ROUND_PHASES` are in it.
    """

    def __init__(self, earlier: Mapping[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = dict(earlier or {})
        self.round_seconds: dict[str, float] = {}
        self._under_way = dict.fromkeys(ROUND_PHASES, 0.0)

    def add(self, phase: str, seconds: float) -> None:
        """Count seconds of the round under way."""
        self._under_way[phase] = self._under_way.get(phase, 0.0) + seconds

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Count what the block takes."""
        began = perf_counter()
        try:
            yield
        finally:
            self.add(phase, perf_counter() - began)

    def after_round(self, record: RoundRecord, state: ServerState) -> None:
        """Close the round's account."""
        self.close()

    def close(self) -> None:
        """Make what was counted since the last time part of `seconds`."""
        self.round_seconds, self._under_way = self._under_way, dict.fromkeys(ROUND_PHASES, 0.0)
        for phase, seconds in self.round_seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
