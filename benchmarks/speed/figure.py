"""One measured ratio, and how two things are timed against each other on a machine that is not quiet."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

WORSE = 0.05
"""A ratio may be worse than the baseline by this share, and by what its own pairs differ."""


class Timing(float):
    """Median seconds of an action, and those of each turn."""

    turns: tuple[float, ...]

    @classmethod
    def of(cls, turns: Sequence[float]) -> Timing:
        """The median of some turns."""
        timing = cls(statistics.median(turns))
        timing.turns = tuple(turns)
        return timing


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
    def key(self) -> tuple[str, str]:
        """By what it is found again: two figures may have one name."""
        return self.name, self.over

    @property
    def met(self) -> bool:
        """Whether the target is reached; true where there is none."""
        if self.target is None:
            return True
        return self.value >= self.target if self.at_least else self.value <= self.target

    @property
    def spread(self) -> tuple[float, float] | None:
        """Lower and upper quartile of the ratios of single pairs; None where nothing took turns."""
        timings = [value for value in self.detail.values() if isinstance(value, Timing)]
        if len(timings) != 2 or len({len(timing.turns) for timing in timings}) != 1 or len(timings[0].turns) < 2:
            return None
        one, other = timings
        if abs(one / other - self.value) > abs(other / one - self.value):
            one, other = other, one
        low, _, high = statistics.quantiles([a / b for a, b in zip(one.turns, other.turns, strict=True)], n=4)
        return low, high

    def worse_than(self, baseline: float | None) -> bool:
        """Whether the ratio is worse than it was, by more than WORSE and half of what its pairs differ by."""
        if baseline is None:
            return False
        low, high = self.spread or (self.value, self.value)
        room = WORSE * baseline + (high - low) / 2
        return self.value < baseline - room if self.at_least else self.value > baseline + room


def interleaved(actions: Sequence[Callable[[], object]], repeats: int, warm: int = 1) -> list[Timing]:
    """Seconds of each action. They take turns, so that a slow spell of the machine meets all of them; every
    other turn runs backwards, so that none always follows the same one."""
    seconds: list[list[float]] = [[] for _ in actions]
    for turn in range(-warm, repeats):
        order = list(enumerate(actions))
        for index, action in order if turn % 2 == 0 else reversed(order):
            began = time.perf_counter()
            action()
            if turn >= 0:
                seconds[index].append(time.perf_counter() - began)
    return [Timing.of(turns) for turns in seconds]
