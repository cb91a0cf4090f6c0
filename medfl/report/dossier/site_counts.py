"""What may be told of a site's patches: rows of allocation_summary.csv above the disclosure floor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medfl import config
from medfl.metrics.small_cells import disclosed_rows
from medfl.report.run_results import Evidence
from medfl.runs.data_record import read_rows
from medfl.runs.records import ALLOCATION


@dataclass(frozen=True)
class DataCount:
    """Patches and source groups of one class in one split of a site."""

    split: str
    label: str
    patches: int
    groups: int


@dataclass(frozen=True)
class SiteCounts:
    """A site's counts.

    Attributes:
        floor: least source groups behind a count.
        counts: those that may be told.
        withheld: the split of each count that may not.
    """

    floor: int
    counts: tuple[DataCount, ...]
    withheld: tuple[str, ...]

    def words(self) -> str:
        """Patches by split, with what is withheld: `train 210, test over 40, val withheld`."""
        splits = dict.fromkeys([*(count.split for count in self.counts), *self.withheld])
        said = []
        for split in splits:
            patches, hidden = sum(c.patches for c in self.counts if c.split == split), split in self.withheld
            said.append(f"{split} withheld" if hidden and not patches else f"{split} {'over ' * hidden}{patches}")
        few = f" ({len(self.withheld)} counts of few source groups withheld)" if self.withheld else ""
        return f"{', '.join(said) or 'nothing told'}{few}"


def site_counts(evidence: Evidence) -> dict[str, SiteCounts]:
    """Site -> its counts; none of a run without allocation_summary.csv. A run of before there was a floor is held to
    the one of today. Raises MedflError where the file is damaged."""
    path = evidence.run.folder / ALLOCATION
    rows = read_rows(path) if path.is_file() else []
    floors = dict(_floors(evidence.run.pipeline))
    return {site: _of_site([row for row in rows if row["site"] == site], floors[site]) for site in evidence.roles}


def _floors(pipeline: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """(site, floor) of a resolved pipeline's plain values."""
    shared = config.Disclosure.model_validate(pipeline.get("disclosure") or {}).min_count
    for listed in (pipeline.get("sites") or {}).values():
        for site in listed or ():
            yield str(site["name"]), max(shared, int(site.get("min_count") or 0))


def _of_site(rows: Sequence[Mapping[str, str]], floor: int) -> SiteCounts:
    disclosed: list[Mapping[str, str | int]] = []
    for split in dict.fromkeys(row["split"] for row in rows):
        mine = [row for row in rows if row["split"] == split]
        # Where a count is blank already, the rest was chosen beside it.
        disclosed += mine if any(row["groups"] == "" for row in mine) else disclosed_rows(mine, floor)
    open_rows = [row for row in disclosed if row["groups"] != ""]
    counts = tuple(
        DataCount(str(row["split"]), str(row["class"]), int(row["patches"]), int(row["groups"])) for row in open_rows
    )
    return SiteCounts(floor, counts, tuple(str(row["split"]) for row in disclosed if row["groups"] == ""))
