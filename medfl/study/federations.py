"""Which runs of a study are of one federation, and what a federation's number is over the strata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medfl.study.study_file import Planned, StudyPlan

Repeat = tuple[str, ...]
"""(partition, seed)."""
ByRepeat = Mapping[Repeat, float | None]  # of each repeat


def federations(study: StudyPlan) -> dict[Repeat, str]:
    """Repeat -> the federation it is of, by the first seed that it has.

    Sites that the study's seeds draw are another federation with every seed, and one and the same in every partition:
    partitions only stain it, or mix its classes, in another way. Sites that the pipeline lists are one federation,
    whatever the seed. With `unit: seed` every seed counts, and what is said is of these sites alone.
    """
    own: dict[Repeat, str] = {}
    first: dict[tuple[str, str], str] = {}
    for run in study.runs:
        repeat = (run.partition, str(run.seed))
        if repeat not in own:
            seed = str(run.seed)
            own[repeat] = seed if study.file.unit == "seed" else first.setdefault((run.partition, _sites(run)), seed)
    return own


def _sites(run: Planned) -> str:
    """The institutions of a run, whatever their roles."""
    sites = [*run.pipeline.train_sites, *run.pipeline.held_out_sites]
    drawn = [site.model_dump(mode="json", exclude={"role", "description"}) for site in sites]
    return json.dumps(sorted(drawn, key=lambda site: str(site["name"])), sort_keys=True)


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
