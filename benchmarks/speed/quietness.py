"""Whether the machine does nothing else meanwhile: a calibration loop before, between and after what is measured."""

from __future__ import annotations

import os
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

QUIET = 1.25
"""Up to this load a machine counts as quiet."""
LOOPS = 300
SETTLE = 0.2
"""Seconds that idle threads of this process have to fall asleep: OpenBLAS keeps them looking for work for a while."""
PIECE = bytes(1 << 20)


@dataclass
class Quietness:
    """What the calibration loop has found so far.

    A look runs the same short piece of work many times on every core at once. Its load is how much longer that took
    than the fastest piece of all looks says: 1 where nobody else is there, 2 where half of the time is others'.

    Attributes:
        floor: seconds of the fastest piece so far.
        walls: seconds of the slowest core, by look.
    """

    floor: float = float("inf")
    walls: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Run the loop once."""
        time.sleep(SETTLE)
        cores = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(cores) as pool:
            results = list(pool.map(lambda _: _loop(), range(cores)))
        self.floor = min(self.floor, *(fastest for _, fastest in results))
        self.walls.append(max(wall for wall, _ in results))

    @property
    def loads(self) -> list[float]:
        """The load of each look."""
        return [wall / (LOOPS * self.floor) for wall in self.walls]

    @property
    def quiet(self) -> bool:
        """Whether no look found the machine busy."""
        return max(self.loads, default=1.0) <= QUIET

    def sentence(self) -> str:
        """What was found, for people."""
        return quietness_sentence(self.loads)


def quietness_sentence(loads: list[float]) -> str:
    """Whether a machine with these loads was quiet."""
    word = "quiet" if max(loads) <= QUIET else "BUSY"
    return (
        f"The machine was {word}: a calibration loop before, between and after took up to {max(loads):.2f} times as "
        f"long as undisturbed (quiet: up to {QUIET:g})."
    )


def _loop() -> tuple[float, float]:
    """Seconds of the loop and of its fastest piece; zlib leaves the lock of the interpreter."""
    fastest, began = float("inf"), time.perf_counter()
    for _ in range(LOOPS):
        start = time.perf_counter()
        zlib.crc32(PIECE)
        fastest = min(fastest, time.perf_counter() - start)
    return time.perf_counter() - began, fastest
