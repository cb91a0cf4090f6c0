"""Who is told how a run goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ProgressCallbacks:
    """Who is told about progress: `say` one line of text, `round` every round record and the number of rounds, and
    `saved`, from another thread, that a further round is on disk."""

    say: Callable[[str], None] = lambda text: None
    round: Callable[[Mapping[str, Any], int], None] = lambda record, rounds: None
    saved: Callable[[], None] = lambda: None

    def notifying(self, notify: Callable[[], None]) -> ProgressCallbacks:
        """The same, with `notify` called whenever a round has ended or is on disk."""

        def round_(record: Mapping[str, Any], rounds: int) -> None:
            notify()
            self.round(record, rounds)

        def saved() -> None:
            notify()
            self.saved()

        return ProgressCallbacks(self.say, round_, saved)
