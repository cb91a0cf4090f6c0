"""What rules share that replace the mean of a round's updates by one that a few malicious sites cannot pull away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from medfl.methods.core.method import Method, require


@dataclass(frozen=True)
class RobustRule(Method):
    """A rule over the updates of a round, side by side, every site counting the same.

    Sample counts are left out because they are the site's own word: a weight that a malicious site may name is no
    protection. Buffers (BatchNorm statistics) follow the same rule as updates.
    """

    keeps_updates: ClassVar[bool] = True
    replaces_mean: ClassVar[bool] = True
    guards_updates: ClassVar[bool] = True

    def async_schedule(self, sites: int) -> None:
        """Refuse where even a round without a failure has too few replies."""
        require(
            sites >= self.min_replies,
            f"{self.demand}, so it needs {self.min_replies} training sites in a round, and there are {sites}",
        )

    @property
    def demand(self) -> str:
        """What a round's replies have to be enough for, in words."""
        raise NotImplementedError
