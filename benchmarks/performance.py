"""The tables of docs/performance.md, from benchmarks/baseline.json and docs/results/performance/choices.csv.

uv run python -m benchmarks.performance        # rewrites the generated parts; measures nothing
"""

from __future__ import annotations

import csv
import json
import statistics
from typing import Any

from benchmarks import peers
from benchmarks.__main__ import BASELINE
from benchmarks.choices import OUT as CHOICES
from benchmarks.pages import rewritten, table
from benchmarks.speed.quietness import quietness_sentence
from benchmarks.tables import ROOT

PAGE = ROOT / "docs" / "performance.md"


def targets_table() -> str:
    """Every figure of the committed run."""
    rows = []
    for figure in json.loads(BASELINE.read_text(encoding="utf-8"))["figures"]:
        target = figure["target"]
        bound = "" if target is None else f"{'≥' if figure['at_least'] else '≤'} {target:.3g}"
        met = target is None or (figure["value"] >= target if figure["at_least"] else figure["value"] <= target)
        value = f"{figure['value']:.3f}" if met else f"**{figure['value']:.3f}**"
        detail = ", ".join(_quantity(key, number) for key, number in figure["detail"].items())
        spread = figure.get("spread")
        pairs = f"{spread[0]:.3f} to {spread[1]:.3f}" if spread else ""
        rows.append([figure["name"], figure["over"], value, pairs, bound, detail])
    return table(["measure", "divided by", "ratio", "middle half of the pairs", "target", "medians"], rows)


def machine() -> str:
    """What it was measured on."""
    document: dict[str, Any] = json.loads(BASELINE.read_text(encoding="utf-8"))
    found, loads = document["machine"], [one["load"] for one in document["figures"] if "load" in one]
    quiet = quietness_sentence(loads) if loads else "Whether the machine was quiet was not noted then."
    return (
        f"Measured on {found['cores']} cores of {found['cpu']}, PyTorch {found['torch']}, timm {found['timm']}, "
        f"Python {found['python']}. {quiet} Figures in bold miss their target."
    )


def choices_table() -> str:
    """How often the bf16 record chooses the same set."""
    rows, same, total = [], 0, 0
    with CHOICES.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            share = int(row["same"]) / int(row["choices"])
            rows.append([row["setting"], row["keep"], row["choices"], f"{share:.2%}", row["least_overlap"]])
            if float(row["keep"]) == 0.5:
                same, total = same + int(row["same"]), total + int(row["choices"])
    head = ["setting", "`keep`", "choices", "same set", "least overlap of the two sets"]
    said = f"With the default `keep: 0.5`, {same:,} of {total:,} choices are the same: {same / total:.2%}."
    return f"{table(head, rows)}\n\n{said}"


def peers_table() -> str:
    """The same task in other frameworks."""
    by_framework: dict[str, list[dict[str, str]]] = {}
    for row in peers.read():
        by_framework.setdefault(f"{row['framework']} {row['version']}", []).append(row)
    if not by_framework:
        return "Not measured."
    rows = []
    for framework, turns in by_framework.items():
        rates = sorted(
            60 * (int(row["many_rounds"]) - int(row["few_rounds"])) / (float(row["many_s"]) - float(row["few_s"]))
            for row in turns
        )
        start, peak = (statistics.median(float(row[column]) for row in turns) for column in ("few_s", "peak_mib"))
        between = f"{statistics.median(rates):.0f} ({rates[0]:.0f} to {rates[-1]:.0f})"
        rows.append([framework, between, f"{start:.0f}", f"{peak:,.0f}", turns[0]["lines"]])
    loads = [float(row["load"]) for turns in by_framework.values() for row in turns]
    head = ["framework", "rounds a minute", "seconds of 2 rounds, with start-up", "peak MiB", "lines of the program"]
    return f"{table(head, rows)}\n\n{quietness_sentence(loads)}"


def _quantity(key: str, number: float) -> str:
    """`round_s` 0.0123 as "round 12.3 ms"."""
    name, _, unit = key.rpartition("_")
    if unit == "s":
        unit, number = ("ms", 1e3 * number) if number < 1 else ("s", number)
    shown = f"{number:,.0f} MiB" if unit == "mib" else f"{number:.3g} {unit}"
    return f"{name.replace('_', ' ')} {shown}"


PARTS = {"machine": machine, "targets": targets_table, "choices": choices_table, "peers": peers_table}


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), PARTS), encoding="utf-8")
    print(f"Written: {PAGE}")


if __name__ == "__main__":
    main()
