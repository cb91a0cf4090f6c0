"""What the runs of a study are dealt, and the digests by which a study knows whether that is still the same."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medfl.data.atomic_file import write_text
from medfl.errors import MedflError
from medfl.runs.data_record import KEY_FILE, changed_sites, data_key, keep_key, read_rows
from medfl.study.study_file import Planned

if TYPE_CHECKING:
    from medfl.data.catalog import Catalog
    from medfl.data.partition import Partition

CONTENTS = "contents.json"
KEPT_PARTITIONS = 64
"""So many deals of a study are kept in memory; another one is dealt anew when its next run is due."""


@dataclass(frozen=True)
class Deal:
    """What a run is dealt.

    Attributes:
        digest: of names and sizes, as the column `data` has it since version 0.1.
        contents: a keyed digest of the files' contents.
        rows: those of the run's allocation_summary.csv.
    """

    digest: str
    contents: str
    rows: list[dict[str, str | int]]

    def is_of(self, folder: Path) -> bool:
        """Whether the run of a folder was dealt this."""
        try:
            return not changed_sites(read_rows(folder / "allocation_summary.csv"), self.rows)
        except MedflError:  # damaged
            return False


class Deals:
    """What the runs of a study are dealt, once for all runs that are dealt the same."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._deals: dict[str, Deal] = {}
        self._partitions: OrderedDict[str, Partition] = OrderedDict()
        self._catalogs: dict[str, Catalog] = {}

    def deal(self, run: Planned) -> Deal:
        """What a planned run is dealt; it changes when the data behind a study do."""
        facts = self._facts(run)
        if facts not in self._deals:
            partition = self.partition(run)
            try:
                rows = partition.summary(data_key(self.out, run.pipeline.cache_dir))
                self._deals[facts] = Deal(_digest(partition.summary()), _digest(rows), rows)
            except MedflError as error:
                raise MedflError(f"{run.title}: {error}") from None
        return self._deals[facts]

    def partition(self, run: Planned) -> Partition:
        """What a run is dealt: the last one that was kept, or dealt now. Raises MedflError as `make_partition`."""
        from medfl.data.partition import make_partition

        facts = self._facts(run)
        if facts not in self._partitions:
            try:
                self._partitions[facts] = make_partition(run.pipeline, self._catalog(run))
            except MedflError as error:
                raise MedflError(f"{run.title}: {error}") from None
            if len(self._partitions) > KEPT_PARTITIONS:
                self._partitions.popitem(last=False)
        self._partitions.move_to_end(facts)
        return self._partitions[facts]

    def _catalog(self, run: Planned) -> Catalog | None:
        """What is dealt to a run's sites, read once for all runs that are dealt from the same; None where all sites
        bring their own."""
        from medfl.data.catalog import brings_own_data, pipeline_catalog

        pipeline = run.pipeline
        if all(brings_own_data(pipeline, site) for site in pipeline.all_sites):
            return None
        parts = (pipeline.name, pipeline.task.model_dump(), pipeline.data.model_dump(), pipeline.evaluation.columns)
        facts = json.dumps([*parts, pipeline.model.mil is not None, pipeline.cache_dir], sort_keys=True, default=str)
        if facts not in self._catalogs:
            self._catalogs[facts] = pipeline_catalog(pipeline)
        return self._catalogs[facts]

    def begin(self, run: Planned) -> Path:
        """The folder of a run, with the study's key of digests in it."""
        folder = self.out / "runs" / run.key
        keep_key(folder, data_key(self.out, run.pipeline.cache_dir))
        return folder

    def read_contents(self) -> dict[str, str]:
        """Run -> digest of the contents of its data; empty where none was written, or under another key than there is
        here: tables may have come from another machine."""
        try:
            noted = json.loads((self.out / CONTENTS).read_text(encoding="utf-8"))
            return dict(noted["runs"]) if noted["key"] == self._key_name() else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}

    def write_contents(self, contents: Mapping[str, str]) -> None:
        """Note the digests of the contents of the runs' data."""
        facts = {"key": self._key_name(), "runs": contents}
        write_text(self.out / CONTENTS, json.dumps(facts, indent=1) + "\n")

    def _key_name(self) -> str:
        """What tells the key of these digests from others, and says nothing of it; empty where none was made yet."""
        file = self.out / KEY_FILE
        return hashlib.sha256(file.read_bytes()).hexdigest()[:8] if file.is_file() else ""

    @staticmethod
    def _facts(run: Planned) -> str:
        """All that decides what a run is dealt."""
        pipeline = run.pipeline
        return json.dumps(
            [pipeline.seed, pipeline.task.model_dump(), pipeline.data.model_dump(), pipeline.sites.model_dump()],
            sort_keys=True,
            default=str,
        )


def _digest(rows: Iterable[Mapping[str, str | int]]) -> str:
    lines = [[row["site"], row["split"], row["class"], row["digest"]] for row in rows]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:12]
