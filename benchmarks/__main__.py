"""All measurements of medfl's own cost, as ratios of interleaved medians in one run.

    uv run python -m benchmarks                    # about 20 minutes on two cores; the GPU's part where there is one
    uv run python -m benchmarks --only aggregation --only ecgr --repeats 3
    uv run python -m benchmarks --check            # exit status 1 when a target is missed or a ratio is worse
    uv run python -m benchmarks --json FILE        # also write the figures, as benchmarks/baseline.json holds them

Ratios are compared with the committed `benchmarks/baseline.json`; they depend little on the machine, seconds do. A
calibration loop before, between and after the sections says whether the machine was quiet. A section is written as soon
as it is measured, in the place of what the file says of it from the same machine and packages; one that was measured on
a busy machine leaves the baseline as it is, and what `--check` then finds is not decided: its exit status is 2.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import frozen, gpu, options, rounds, side_by_side, starting, steps, stores
from benchmarks.speed.figure import Figure
from benchmarks.speed.quietness import QUIET, Quietness
from medfl.data.atomic_file import write_text
from medfl.runs.versions import versions

BASELINE = Path(__file__).with_name("baseline.json")
CPU: dict[str, Callable[[int], Iterator[Figure]]] = {
    "plain": steps.fedavg_over_plain,
    "ecgr": steps.ecgr_over_fedavg,
    "methods": steps.methods_over_fedavg,
    "passes": steps.passes_over_plain,
    "features": frozen.extraction,
    "measuring": frozen.measuring,
    "heads": frozen.rounds_on_features,
    "stain": steps.stain_over_fedavg,
    "aggregation": rounds.aggregation,
    "else": rounds.everything_else,
    "memory": rounds.memory,
    "sites": rounds.many_sites,
    "workers": side_by_side.workers_over_threads,
    "options": options.options,
    "stores": stores.opening,
    "jpegs": stores.training_on_jpegs,
    "start": starting.second_start,
    "study": starting.second_run_of_a_study,
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
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed or a ratio is worse")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(os.cpu_count() or 1)
    if asked.json and (reason := unfit(asked.json, partly=bool(asked.only))):
        parser.error(reason)
    before = read(BASELINE)
    figures: list[Figure] = []
    quietness = Quietness()
    quietness.look()
    for name in asked.only or sections:
        measured = []
        for figure in sections[name](asked.repeats):
            measured.append(figure)
            print(line(figure, before.get(figure.key)), flush=True)
        quietness.look()
        figures += measured
        if asked.json:
            keep(asked.json, name, measured, max(quietness.loads[-2:]))
    print(quietness.sentence())
    missed = [f"missed: {figure.name}" for figure in figures if not figure.met]
    missed += [
        f"worse than the baseline: {figure.name}" for figure in figures if figure.worse_than(before.get(figure.key))
    ]
    print("\n  ".join([f"{sum(figure.met for figure in figures)} of {len(figures)} within their targets", *missed]))
    return 0 if not (missed and asked.check) else 1 if quietness.quiet else 2


def keep(file: Path, section: str, figures: Sequence[Figure], load: float) -> None:
    """Write a section into what `--json` names, beside others of the same machine; a busy one does not change the
    baseline."""
    if file.resolve() == BASELINE.resolve() and load > QUIET:
        print(f"{file} is left as it was of {section}, since the machine was busy ({load:.2f})", flush=True)
        return
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    measured = [entry(figure) | {"section": section, "load": round(load, 3)} for figure in figures]
    keys = {(one["name"], one["over"]) for one in measured}
    sections = [*CPU, *GPU]
    kept = [
        one
        for one in (before.get("figures", []) if before.get("machine") == machine() else [])
        if one.get("section", sections[0]) in sections and one.get("section") != section
        if (one["name"], one["over"]) not in keys
    ]
    figures_of_all = sorted(kept + measured, key=lambda one: sections.index(one.get("section", sections[0])))
    write_text(file, json.dumps({"machine": machine(), "figures": figures_of_all}, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """What the figures of a file belong to."""
    return {"cpu": cpu(), "cores": os.cpu_count(), **versions()}


def unfit(file: Path, partly: bool) -> str | None:
    """Why a file cannot take the sections that will be measured; said before that."""
    try:
        file.resolve().parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"figures": []}
        there, known = before.get("machine"), before["figures"]
    except (OSError, ValueError, AttributeError, TypeError, LookupError) as error:
        return f"{file} cannot take figures ({error}); name another file with --json"
    if partly and known and there != machine() and file.resolve() == BASELINE.resolve():
        return f"{file} is of another machine or other packages; measure all sections, or name another file with --json"
    return None


def line(figure: Figure, baseline: float | None) -> str:
    """One figure as the terminal shows it."""
    target = "" if figure.target is None else f"  target {'>=' if figure.at_least else '<='} {figure.target:g}"
    verdict = "" if figure.target is None else "  ok" if figure.met else "  MISSED"
    then = "" if baseline is None else f"  baseline {baseline:.3f}"
    detail = ", ".join(f"{key} {value:.4g}" for key, value in figure.detail.items())
    if figure.spread:
        detail += f"; pairs {figure.spread[0]:.3f} to {figure.spread[1]:.3f}"
    return f"{figure.value:8.3f}{target}{verdict}{then}  {figure.name}\n          over: {figure.over}  ({detail})"


def entry(figure: Figure) -> dict[str, Any]:
    """A figure as `--json` writes it."""
    return {
        "name": figure.name,
        "over": figure.over,
        "value": round(figure.value, 4),
        "target": figure.target,
        "at_least": figure.at_least,
        "spread": None if figure.spread is None else [round(bound, 4) for bound in figure.spread],
        "detail": {key: float(f"{value:.4g}") for key, value in figure.detail.items()},
    }


def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "an unnamed CPU")


def read(path: Path) -> Mapping[tuple[str, str], float]:
    """Name of a figure and what it is divided by -> value of a file that `--json` wrote; empty where there is none."""
    if not path.is_file():
        return {}
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return {(figure["name"], figure["over"]): figure["value"] for figure in figures}


if __name__ == "__main__":
    sys.exit(main())
