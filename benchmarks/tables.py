"""The committed tables of runs, `docs/results/<study>/*.csv`."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
Row = Mapping[str, str]


@dataclass(frozen=True)
class Runs:
    """The three tables of one study."""

    runs: Sequence[Row]
    sites: Sequence[Row]
    curves: Sequence[Row]

    @classmethod
    @functools.cache
    def load(cls, name: str) -> Runs:
        """Those of a study by its name; read once for all that is said of it."""

        def rows(table: str) -> list[Row]:
            path = RESULTS / name / f"{table}.csv"
            if not path.is_file():
                return []
            with path.open(newline="", encoding="utf-8") as stream:
                return list(csv.DictReader(stream))

        return cls(rows("runs"), rows("sites"), rows("curves"))
