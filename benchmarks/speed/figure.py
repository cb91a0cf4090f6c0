"""One measured ratio, and how two things are timed against each other on a machine that is not quiet."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """A ratio.

    Attributes:
        name: what is measured.
        over: what it is divided by.
        value: the ratio.
        target: what it has to reach; None where it is reported only.
        at_least: whether `target` is a lower bound; an upper bound otherwise.
        detail: the medians it is made of, with their units in their names.
    """

    name: str
    over: str
    value: float
    target: float | None = None
    at_least: bool = False
    detail: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether the target is reached; true where there is none."""
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target


def interleaved(actions: Sequence[Callable[[], object]], repeats: int, warm: int = 1) -> list[float]:
    """Median seconds of each action. They take turns, so that a slow spell of the machine meets all of them; every
    other turn runs backwards, so that none always follows the same one."""
    seconds: list[list[float]] = [[] for _ in actions]
    for turn in range(-warm, repeats):
        order = list(enumerate(actions))
        for index, action in order if turn % 2 == 0 else reversed(order):
            began = time.perf_counter()
            action()
            if turn >= 0:
                seconds[index].append(time.perf_counter() - began)
    return [statistics.median(found) for found in seconds]
