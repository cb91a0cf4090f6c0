"""What FedAsync and FedBuff share: the weight of a stale reply, and the methods that stand an asynchronous schedule."""

from __future__ import annotations

from medfl.methods.core.chain import Method, require

MEETS = ("ecgr", "fedprox", "scaffold", "fedbn", "norm_clip", "norm_guard")


def staleness(age: int, exponent: float) -> float:
    """(age + 1)^-exponent, 1 for a fresh reply."""
    return float((age + 1) ** -exponent)


def stands_asynchronously(link: Method, other: Method) -> None:
    """Raise ValueError with one sentence for a built-in link that merges by itself or counts synchronous rounds."""
    require(
        not other.__module__.startswith("medfl.methods.") or other.name in MEETS,
        f"{link.name} merges asynchronously and does not go with {other.name}; it goes with {', '.join(MEETS)}",
    )
