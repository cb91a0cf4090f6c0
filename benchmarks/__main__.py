"""All measurements of medfl's own cost, as ratios of interleaved medians in one run.

    uv run python -m benchmarks                    # about 20 minutes on two cores; the GPU's part where there is one
    uv run python -m benchmarks --only aggregation --only ecgr --repeats 3
    uv run python -m benchmarks --check            # exit status 1 when a target is missed
    uv run python -m benchmarks --json FILE        # also write the figures, as benchmarks/baseline.json holds them

Ratios are compared with the committed `benchmarks/baseline.json`; they depend little on the machine, seconds do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import gpu, options, rounds, side_by_side, starting, steps
from benchmarks.speed.figure import Figure
from medfl.runs.versions import versions

BASELINE = Path(__file__).with_name("baseline.json")
CPU: dict[str, Callable[[int], Iterator[Figure]]] = {
    "plain": steps.fedavg_over_plain,
    "ecgr": steps.ecgr_over_fedavg,
    "methods": steps.methods_over_fedavg,
    "stain": steps.stain_over_fedavg,
    "aggregation": rounds.aggregation,
    "else": rounds.everything_else,
    "memory": rounds.memory,
    "sites": rounds.many_sites,
    "workers": side_by_side.workers_over_threads,
    "options": options.options,
    "start": starting.second_start,
    "rendering": starting.rendering,
}
GPU = {
    "gpu-fedavg": gpu.fedavg_over_plain,
    "gpu-ecgr": gpu.ecgr_over_fedavg,
    "gpu-augmentation": gpu.augmentation,
    "gpu-sync": gpu.host_synchronisation,
    "gpu-run": gpu.long_run,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    sections = CPU | (GPU if torch.cuda.is_available() else {})
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--only", action="append", choices=sections, metavar="SECTION", help=", ".join(sections))
    parser.add_argument("--repeats", type=int, default=5, help="turns of each pair; default 5")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(os.cpu_count() or 1)
    before = read(BASELINE)
    figures: list[Figure] = []
    for name in asked.only or sections:
        for figure in sections[name](asked.repeats):
            figures.append(figure)
            print(line(figure, before.get(figure.name)), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(document(figures), indent=2) + "\n", encoding="utf-8")
    missed = [figure.name for figure in figures if not figure.met]
    print(
        f"{len(figures) - len(missed)} of {len(figures)} within their targets"
        + "".join(f"\n  missed: {n}" for n in missed)
    )
    return 1 if missed and asked.check else 0


def line(figure: Figure, baseline: float | None) -> str:
    """One figure as the terminal shows it."""
    target = "" if figure.target is None else f"  target {'>=' if figure.at_least else '<='} {figure.target:g}"
    verdict = "" if figure.target is None else "  ok" if figure.met else "  MISSED"
    then = "" if baseline is None else f"  baseline {baseline:.3f}"
    detail = ", ".join(f"{key} {value:.4g}" for key, value in figure.detail.items())
    return f"{figure.value:8.3f}{target}{verdict}{then}  {figure.name}\n          over: {figure.over}  ({detail})"


def document(figures: list[Figure]) -> dict[str, Any]:
    """What `--json` writes."""
    return {
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), **versions()},
        "figures": [
            {
                "name": f.name,
                "over": f.over,
                "value": round(f.value, 4),
                "target": f.target,
                "at_least": f.at_least,
                "detail": {key: float(f"{value:.4g}") for key, value in f.detail.items()},
            }
            for f in figures
        ],
    }


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "an unnamed CPU")


def read(path: Path) -> Mapping[str, float]:
    """Figure name -> value of a file that `--json` wrote; empty where there is none."""
    if not path.is_file():
        return {}
    return {figure["name"]: figure["value"] for figure in json.loads(path.read_text(encoding="utf-8"))["figures"]}


if __name__ == "__main__":
    sys.exit(main())
