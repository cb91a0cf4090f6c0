"""How medfl's own costs grow with sites, local steps, parameters and image size. CPU, two threads.

    uv run python -m benchmarks.growth [--out docs/results/performance]

writes growth.csv and growth.svg, which docs/performance.md shows. About five minutes. Seconds belong to the machine
they were measured on; what the page draws from them is how they grow.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.figure import interleaved
from benchmarks.speed.steps import one_site
from benchmarks.speed.workload import METHOD, Rounds, store, work, workbench
from benchmarks.tables import ROOT
from medfl.data.atomic_file import write_text
from medfl.methods.core.context import SiteContext
from medfl.methods.core.local_steps import Steps
from medfl.methods.ecgr import choose, coefficients

BACKBONES = ("test_byobnet", "resnet10t", "resnet18", "resnet34")
METHODS: dict[str, METHOD] = {"FedAvg": [], "ECGR": ["ecgr"], "SCAFFOLD": ["scaffold"]}
Row = dict[str, Any]


def overhead(backbone: str, sites: int, method: METHOD, repeats: int) -> float:
    """Median seconds of a round of one small step a site, less the steps."""
    game = Rounds(
        workbench(backbone, method), [store(f"s-{k:02}", 20, 32) for k in range(sites)], work(1, batch_size=4)
    )
    found = []
    for turn in range(-1, repeats):
        game.step_seconds()
        began = time.perf_counter()
        game.play()
        if turn >= 0:
            found.append(time.perf_counter() - began - game.step_seconds())
    return statistics.median(found)


def by_sites(repeats: int) -> Iterator[Row]:
    """Everything but steps against the number of sites, resnet18."""
    for name, method in METHODS.items():
        for sites in (1, 2, 5, 10, 20):
            yield _row("sites", name, sites, overhead("resnet18", sites, method, repeats))


def by_parameters(repeats: int) -> Iterator[Row]:
    """Everything but steps against the size of the model, five sites."""
    for backbone in BACKBONES:
        size = workbench(backbone, []).model.layout.size
        for name in ("FedAvg", "SCAFFOLD"):
            yield _row("parameters", name, size, overhead(backbone, 5, METHODS[name], repeats))


def by_steps(repeats: int) -> Iterator[Row]:
    """What ECGR adds to a site's round against the number of local steps, resnet18."""
    model = workbench("resnet18", []).model
    start = model.vector.clone()
    for storage, name in (("device", "ECGR, float32"), ("bf16", "ECGR, bf16")):
        for steps in (10, 25, 50, 100):
            local = SiteContext(model, start, start, steps=steps, lr=0.1, seed=0)

            def play(local: SiteContext = local, steps: int = steps, storage: str = storage) -> None:
                for local.step in range(1, steps + 1):
                    Steps(local, storage).record()
                kept = Steps(local, storage)
                gram = kept.gram()
                kept.combine(coefficients(gram, choose(gram, 0.5, "greedy"), 0.2))

            yield _row("steps", name, steps, _seconds(play, repeats))


def by_size(repeats: int) -> Iterator[Row]:
    """A local step of 32 patches against the side of a patch, resnet18."""
    for size in (32, 64, 96, 128, 192):
        game = one_site("resnet18", size, 3, [])
        yield _row("size", "a local step", size, _seconds(game.play, min(3, repeats)) / 3)


def draw(rows: Sequence[Row], path: Path) -> None:
    """The four panels."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "medfl", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    panels = {
        "sites": ("sites in a round (resnet18)", "a round but its steps, s"),
        "parameters": ("million parameters (5 sites)", "a round but its steps, s"),
        "steps": ("local steps (resnet18)", "what ECGR adds to a site's round, s"),
        "size": ("side of a patch, pixels (resnet18, batch 32)", "a local step, s"),
    }
    figure, axes = plt.subplots(2, 2, figsize=(8, 6), layout="constrained")
    for axis, (kind, (across, up)) in zip(axes.flat, panels.items(), strict=True):
        mine = [row for row in rows if row["kind"] == kind]
        for series in dict.fromkeys(row["series"] for row in mine):
            unit = 1e6 if kind == "parameters" else 1
            points = [(row["x"] / unit, row["seconds"]) for row in mine if row["series"] == series]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=series)
        axis.set(xlabel=across, ylabel=up, ylim=(0, None), xlim=(0, None))
        if kind != "size":
            axis.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _seconds(action: Callable[[], object], repeats: int) -> float:
    return interleaved([action], repeats)[0]


def _row(kind: str, series: str, x: int, seconds: float) -> Row:
    print(f"{kind:12} {series:14} {x:>12,}  {seconds:.4f} s", flush=True)
    return {"kind": kind, "series": series, "x": x, "seconds": float(f"{seconds:.4g}")}


def main() -> None:
    """Measure, write the table, draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "performance")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    rows = [row for part in (by_sites, by_parameters, by_steps, by_size) for row in part(asked.repeats)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    asked.out.mkdir(parents=True, exist_ok=True)
    write_text(asked.out / "growth.csv", text.getvalue())
    draw(rows, asked.out / "growth.svg")


if __name__ == "__main__":
    main()
