"""What the study of real scanners reached, and how sure each difference is over patients: tables for two pages, from
docs/results/mitosis/. Its patients.csv is written where the study's runs are:

    uv run medfl compare docs/results/mitosis --out docs/results/mitosis/patients.csv
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from statistics import mean

from benchmarks.pages import table
from benchmarks.public_benchmark import REAL, held_out_rows, over_seeds
from benchmarks.tables import RESULTS, Row, Runs
from medfl.metrics.formatting import format_bounds
from medfl.study.study_tables import number

PATIENTS = RESULTS / REAL / "patients.csv"
HEAD = ["left out", "method", "against", "measured at", "seeds", "groups", "AUROC", "the other's", "difference [95 %]"]


def reached_table() -> str:
    """A row a method: AUROC at each scanner left out, at all of them, at TCGA and at both; ECE at both."""
    runs = Runs.load(REAL).runs
    places = list(dict.fromkeys(row["partition"] for row in runs))
    head = ["method", "seeds", *(place.removesuffix("-left-out") for place in places)]
    head += ["scanner left out", "TCGA", "both", "ECE: scanner", "ECE: TCGA"]
    rows = []
    for method in dict.fromkeys(row["method"] for row in runs):
        own = [row for row in runs if row["method"] == method]
        there, tcga = held_out_rows(method)
        scanners = [_mean([row for row in there if row["partition"] == place], "auroc") for place in places]
        cells = [_over(there, "auroc"), _over(tcga, "auroc"), _over(own, "held_out_mean_auroc")]
        cells += [_mean(there, "ece"), _mean(tcga, "ece")]
        rows.append([f"`{method}`", str(len({row["seed"] for row in own})), *scanners, *cells])
    return table(head, rows)


def _over(rows: Sequence[Row], name: str) -> str:
    return over_seeds(rows, name) if rows else "-"


def _mean(rows: Sequence[Row], name: str) -> str:
    values = [value for row in rows if (value := number(row, name)) is not None]
    return f"{mean(values):.3f}" if values else "-"


def patients_table() -> str:
    """AUROC of every method against the first, at each scanner left out and TCGA."""
    if not PATIENTS.is_file():
        return "Not measured."
    with PATIENTS.open(encoding="utf-8", newline="") as stream:
        return table(HEAD, [_shown(row) for row in csv.DictReader(stream) if row["figure"] == "auroc"])


def _shown(row: Row) -> list[str]:
    names = [row["partition"].removesuffix("-left-out"), row["method"], row["against"], row["site"]]
    one, other, moved = (float(row[name]) for name in ("one", "other", "difference"))
    ends = f" {format_bounds((float(row['low']), float(row['high'])), '+.3f')}" if row["low"] else ""
    few = " too few groups" if row["few_groups"] == "true" else ""
    shown = [f"{one:.3f}", f"{other:.3f}", f"{moved:+.3f}{ends}{few}"]
    return [*names, str(len(row["seeds"].split())), row["groups"], *shown]
