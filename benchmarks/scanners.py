"""How sure each real scanner's difference between two methods is, over its patients: a table for a page, from
docs/results/mitosis/patients.csv, which is written where the study's runs are:

    uv run medfl compare docs/results/mitosis --out docs/results/mitosis/patients.csv
"""

from __future__ import annotations

import csv

from benchmarks.pages import table
from benchmarks.tables import RESULTS, Row

TABLE = RESULTS / "mitosis" / "patients.csv"
HEAD = ["left out", "method", "against", "measured at", "seeds", "groups", "AUROC", "the other's", "difference [95 %]"]


def patients_table() -> str:
    """AUROC of every method against the first, at each scanner left out and TCGA."""
    if not TABLE.is_file():
        return "Not measured."
    with TABLE.open(encoding="utf-8", newline="") as stream:
        return table(HEAD, [_shown(row) for row in csv.DictReader(stream) if row["figure"] == "auroc"])


def _shown(row: Row) -> list[str]:
    names = [row["partition"].removesuffix("-left-out"), row["method"], row["against"], row["site"]]
    one, other, moved, low, high = (float(row[name]) for name in ("one", "other", "difference", "low", "high"))
    shown = [f"{one:.3f}", f"{other:.3f}", f"{moved:+.3f} [{low:+.3f}, {high:+.3f}]"]
    return [*names, str(len(row["seeds"].split())), row["groups"], *shown]
