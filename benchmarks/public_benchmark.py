"""The table of docs/benchmark.md from committed tables of runs: methods on simulated laboratories and on real scanners.

    uv run python -m benchmarks.public_benchmark                    # rewrites the table; trains nothing
    uv run python -m benchmarks.public_benchmark --timed FOLDER     # first notes the seconds of a study's run folders

The runs are those of `pipelines/studies/benchmark.yaml` and `mitosis.yaml`. Intervals are 95 % t-intervals over seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.pages import rewritten, table
from benchmarks.tables import RESULTS, ROOT, Row, Runs
from medfl.study.statistics import mean_over
from medfl.study.study_tables import number

PAGE = ROOT / "docs" / "benchmark.md"
SIMULATED, REAL = "benchmark", "mitosis"
SECONDS = RESULTS / SIMULATED / "seconds.csv"
UNMEASURED = "not measured"
LEAST_SEEDS = 3  # for an interval


def over_seeds(rows: Sequence[Row], name: str) -> str:
    """Mean and 95 % interval of a figure over the seeds, each the mean of its rows; no interval of fewer than three."""
    by_seed: dict[str, list[float]] = {}
    for row in rows:
        if (value := number(row, name)) is not None:
            by_seed.setdefault(row["seed"], []).append(value)
    if not by_seed:
        return UNMEASURED
    found = mean_over([mean(values) for values in by_seed.values()])
    if found.n < LEAST_SEEDS:
        return f"{found.mean:.3f} ({found.n} seed{'s' if found.n > 1 else ''})"
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def simulated(method: str) -> list[str]:
    """Mean and worst AUROC and ECE at the held-out sites of LC25000."""
    rows = [row for row in Runs.load(SIMULATED).runs if row["method"] == method]
    names = ("held_out_mean_auroc", "held_out_worst_auroc", "held_out_mean_ece")
    return [over_seeds(rows, name) for name in names]


def held_out_rows(method: str) -> tuple[list[Row], list[Row]]:
    """What the global models of a method reached at the scanners left out, and at TCGA: a row a run."""
    asked = (method, "held_out", "global")
    rows = [row for row in Runs.load(REAL).sites if (row["method"], row["role"], row["model"]) == asked]
    return [row for row in rows if row["site"] != "tcga"], [row for row in rows if row["site"] == "tcga"]


def real(method: str) -> list[str]:
    """AUROC at the scanner left out and at TCGA, and ECE at the scanner left out."""
    scanners, tcga = held_out_rows(method)
    return [over_seeds(scanners, "auroc"), over_seeds(tcga, "auroc"), over_seeds(scanners, "ece")]


def seconds() -> dict[str, str]:
    """Method -> seconds of a run on LC25000, features cached."""
    if not SECONDS.is_file():
        return {}
    with SECONDS.open(encoding="utf-8", newline="") as stream:
        return {row["method"]: row["seconds"] for row in csv.DictReader(stream)}


def note_seconds(study: Path) -> None:
    """Write the median seconds of each method's runs, as their summaries have it."""
    named = {row["key"]: row["method"] for row in Runs.load(SIMULATED).runs}
    taken: dict[str, list[float]] = {}
    for folder in sorted((study / "runs").iterdir()):
        if folder.name in named and (file := folder / "summary.json").is_file():
            timings = json.loads(file.read_text(encoding="utf-8"))["timings"]
            taken.setdefault(named[folder.name], []).append(timings["total"])
    with SECONDS.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["method", "seconds"])
        writer.writerows([method, f"{sorted(values)[len(values) // 2]:.0f}"] for method, values in taken.items())


def methods_table() -> str:
    """A row a method, by the AUROC on LC25000; then those that only real scanners have seen."""
    runs = Runs.load(SIMULATED).runs
    by_method: dict[str, list[float]] = {}
    for row in runs:
        by_method.setdefault(row["method"], []).append(number(row, "held_out_mean_auroc") or 0.0)
    order = sorted(by_method, key=lambda method: -mean(by_method[method]))
    order += [method for method in dict.fromkeys(row["method"] for row in Runs.load(REAL).runs) if method not in order]
    taken = seconds()
    head = ["method", "LC25000: AUROC", "worst site", "ECE", "seconds", "scanner left out: AUROC", "TCGA: AUROC", "ECE"]
    return table(head, [[f"`{m}`", *simulated(m), taken.get(m, ""), *real(m)] for m in order])


PARTS = {"benchmark": methods_table}


def main() -> None:
    """Rewrite the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.public_benchmark")
    parser.add_argument("--timed", type=Path, metavar="FOLDER")
    if (study := parser.parse_args().timed) is not None:
        note_seconds(study)
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), PARTS), encoding="utf-8")


if __name__ == "__main__":
    main()
