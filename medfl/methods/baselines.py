"""The two arms that bracket every federation: each site alone, and all data in one place. See
`medfl.federation.baselines`.

They stand in a pipeline's `method` where a chain would, alone, because there is no federation for a method to act on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from medfl.methods.core.method import Method


@dataclass(frozen=True)
class LocalOnly(Method):
    """No federation: each site trains its own model, measured at every site."""

    name: ClassVar[str] = "local_only"
    arm: ClassVar[str] = "local_only"

    def check_compatible(self, other: Method) -> None:
        """Nothing goes with it."""
        raise ValueError(f"local_only trains each site alone, so {other.name} has nothing to act on; keep one of them")


@dataclass(frozen=True)
class Centralised(Method):
    """No federation: the training data of all sites pooled in one place, with as many steps as all sites together."""

    name: ClassVar[str] = "centralised"
    arm: ClassVar[str] = "centralised"

    def check_compatible(self, other: Method) -> None:
        """Nothing goes with it."""
        raise ValueError(
            f"centralised trains on pooled data in one place, so {other.name} has nothing to act on; keep one of them"
        )
