"""How threads of OpenMP wait for one another: it reads the variables set here when torch is loaded."""

from __future__ import annotations

import os

SPINS = "1000"
"""How often an idle thread looks for work before it sleeps: tens of microseconds, which bridge the gap between two
operations. With none, two threads train a small network up to four times as slowly; with libgomp's own 300,000, runs or
people that share a machine lose its cores to threads that wait, and everything is many times slower."""
BRIEFLY = {"GOMP_SPINCOUNT": SPINS, "KMP_BLOCKTIME": "0"}
VARIABLES = {"OMP_WAIT_POLICY", *BRIEFLY}
"""By any of these a user says it otherwise."""


def wait_briefly() -> None:
    """Let idle threads sleep soon unless the user has said otherwise."""
    if not VARIABLES & os.environ.keys():
        os.environ.update(BRIEFLY)


def waiting() -> str:
    """What idle threads do, in words."""
    if BRIEFLY.items() <= os.environ.items():
        return "idle threads sleep soon"
    said = " ".join(f"{name}={os.environ[name]}" for name in sorted(VARIABLES & os.environ.keys()))
    return f"idle threads: {said}" if said else "idle threads wait as their libraries do"
