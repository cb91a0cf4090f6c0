"""What a federation's number is over the strata."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Repeat = tuple[str, ...]
"""(partition, seed)."""
ByRepeat = Mapping[Repeat, float | None]  # of each repeat
Values = Callable[[str, str], ByRepeat]
"""(method, column of runs.csv) -> its value in every repeat that is done."""


@dataclass(frozen=True)
class Pool:
    """The repeats of some strata, by federation.

    Attributes:
        federations: repeat -> federation.
        strata: partitions that count alike.
    """

    federations: Mapping[Repeat, str]
    strata: Sequence[str]

    @classmethod
    def of_all(cls, federations: Mapping[Repeat, str], partitions: Sequence[str]) -> Pool:
        """The partitions that may be pooled: those of one federation alone are left out where others have more, since
        nothing is known of how they vary."""
        counts = {name: len({own for repeat, own in federations.items() if repeat[0] == name}) for name in partitions}
        several = [name for name, count in counts.items() if count > 1]
        return cls(federations, several or list(partitions))

    def rows(self, values: ByRepeat) -> dict[str, list[float]]:
        """Federation -> its value in every stratum, a mean over its repeats there; those that lack one in some stratum
        are left out."""
        cells: dict[str, dict[str, list[float]]] = {}
        for repeat, value in sorted(values.items()):
            if value is not None and repeat[0] in self.strata:
                own = self.federations.get(repeat, " ".join(repeat))
                cells.setdefault(own, {}).setdefault(repeat[0], []).append(value)
        whole = {own: parts for own, parts in cells.items() if len(parts) == len(self.strata)}
        return {
            own: [math.fsum(parts[name]) / len(parts[name]) for name in self.strata] for own, parts in whole.items()
        }

    def means(self, values: ByRepeat) -> dict[str, float]:
        """Federation -> its mean over the strata, each of the same weight."""
        return {own: math.fsum(row) / len(row) for own, row in self.rows(values).items()}
