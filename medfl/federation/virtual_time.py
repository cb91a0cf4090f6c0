"""Virtual time: how long a site's round would take over its line, without anyone waiting for it.

From dispatch to arrival a site downloads the message, takes its local steps and uploads its reply:

    8e-6 bytes_down / down + steps * seconds_per_step + 8e-6 bytes_up / up     seconds,

times one lognormal factor per (run, round, site). Measuring a model and the server's own work take no virtual time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from medfl.seeds import seed_for

MEGABITS_PER_BYTE = 8e-6


@dataclass(frozen=True)
class SiteSpeed:
    """How fast a site is: `down` and `up` in Mbit/s, seconds a local step, sigma of the lognormal factor."""

    down: float
    up: float
    seconds_per_step: float
    jitter: float = 0.0

    def seconds(self, bytes_down: int, bytes_up: int, steps: int, draw: int = 0) -> float:
        """Virtual seconds from dispatch to arrival; `draw` is the seed of the lognormal factor, 1 without jitter."""
        line = MEGABITS_PER_BYTE * (bytes_down / self.down + bytes_up / self.up)
        factor = random.Random(draw).lognormvariate(0.0, self.jitter) if self.jitter else 1.0
        return factor * (line + steps * self.seconds_per_step)


def jitter_seed(run_seed: int, round_: int, site: str) -> int:
    """The seed of a site's lognormal factor in a round."""
    return seed_for(run_seed, "jitter", round_, site)


def closing_time(arrivals: Iterable[float], wait_for: int, window: float) -> float:
    """When the server stops waiting: `window` seconds after the `wait_for`-th arrival (the last, where fewer come)."""
    ordered = sorted(arrivals)
    return ordered[min(wait_for, len(ordered)) - 1] + window
