"""What the studies of the two pages of design found, from their committed tables alone; `benchmarks.claims` writes the
pages."""

from __future__ import annotations

import csv
import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pages import table
from benchmarks.tables import ROOT, Runs
from medfl.study.endpoint_results import PRIMARY, answers, questions
from medfl.study.endpoint_text import endpoint_sentences, endpoint_tables
from medfl.study.pool import ByRepeat, Pool, Repeat
from medfl.study.study_file import StudyFile
from medfl.study.study_tables import number

STUDIES = ROOT / "pipelines" / "studies"
SETTINGS = {
    "heads": "heads on frozen features",
    "network": "a small network from random weights",
    "mitosis": "fine-tuning on real scanners",
    "personal-heads": "personal models on frozen features",
    "sparsity-network": "LIPS on the small network",
    "bandwidth-network": "FedGMR on the small network",
}
FIRST = ("heads", "network")  # with primary questions, of docs/study-design.md
LATER = ("personal-heads", "sparsity-network", "bandwidth-network")  # of docs/study-design-methods.md


def study_file(name: str) -> StudyFile:
    """A designed study as its file states it."""
    return StudyFile.model_validate(yaml.safe_load(_path(name).read_text(encoding="utf-8")))


def _path(name: str) -> Path:
    return next(STUDIES.rglob(f"{name}.yaml"))


def planned(file: StudyFile) -> dict[str, list[Repeat]]:
    """Method -> the (partition, seed) that it is asked in."""
    return {
        name: [(partition, str(seed)) for partition in file.partitions for seed in file.seeds[: arm.federations]]
        for name, arm in file.arms().items()
    }


@functools.cache
def found(name: str) -> dict[str, Any] | None:
    """The parts of study.json that its sentences and tables of endpoints are made of; None before the first run.

    The sites of these studies are drawn by seed, so a seed is a federation.
    """
    file, rows = study_file(name), Runs.load(name).runs
    if not rows:
        return None
    by_method: dict[str, dict[Repeat, Mapping[str, str]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], {})[row["partition"], row["seed"]] = row

    def values(method: str, column: str) -> ByRepeat:
        return {repeat: number(row, column) for repeat, row in by_method.get(method, {}).items()}

    asked = planned(file)
    open_runs = {method: len(set(repeats) - set(by_method.get(method, {}))) for method, repeats in asked.items()}
    pool = Pool({repeat: repeat[1] for repeats in asked.values() for repeat in repeats}, list(file.partitions))
    return {
        "unit": file.unit,
        "pooled": pool.strata,
        "endpoints": answers(questions(file), values, pool, open_runs),
    }


def sentences(name: str) -> str:
    """The answer to each primary question of a study."""
    study = found(name)
    if study is None:
        return f"- {SETTINGS[name]}: **not run**."
    said = [line for line in endpoint_sentences(study) if line.startswith("Primary")]
    return "\n".join(f"- {SETTINGS[name]}. {line}" for line in said)


def tables(name: str) -> str:
    """The primary answers of a study, by stratum, and those secondary ones whose runs are all done."""
    study = found(name)
    if study is None:
        return "Not run."
    done = [its for its in study["endpoints"] if its["rank"] == PRIMARY or not its["open_runs"]]
    left = dict.fromkeys((its["method"], its["against"]) for its in study["endpoints"] if its not in done)
    shown = [
        f"{one.title[0].upper()}{one.title[1:]}:\n\n{one.markdown()}"
        for one in endpoint_tables(study | {"endpoints": done})
    ]
    if left:
        shown.append(
            "Secondary comparisons whose runs are still to be done: "
            + ", ".join(f"{one} against {other}" for one, other in left)
            + "."
        )
    return "\n\n".join(shown)


def entry(name: str, method: str, against: str, figure: str) -> Mapping[str, Any] | None:
    """One answer."""
    endpoints: Sequence[Mapping[str, Any]] = (found(name) or {"endpoints": []})["endpoints"]
    same = (method, against, figure)
    return next((its for its in endpoints if (its["method"], its["against"], its["figure"]) == same), None)


def rates() -> str:
    """What each tuning study chose, by stratum."""
    rows = []
    for name in SETTINGS:
        tuned = study_file(name).tuned
        if tuned and (chosen := _path(name).parent / tuned).is_file():
            with chosen.open(encoding="utf-8", newline="") as stream:
                rows += [
                    [SETTINGS[name], row["partition"], row["method"], row["value"], row["edge"] or "no"]
                    for row in csv.DictReader(stream)
                ]
    return table(["setting", "stratum", "method", "rate", "at an edge of the grid"], rows)


def _tuning(name: str) -> list[str]:
    """The study that a study's rates are from, if any."""
    tuned = study_file(name).tuned
    return [Path(tuned).parent.name] if tuned else []


def progress() -> str:
    """Runs done of those planned, and under which design, by the first eight digits of its SHA-256."""
    rows, pages = [], {}
    for name in (each for main in SETTINGS for each in (*_tuning(main), main)):
        file, done = study_file(name), Runs.load(name).runs
        asked = sum(map(len, planned(file).values()))
        designs = Counter(row.get("design", "")[:8] or "none" for row in done)
        shown = ", ".join(f"{digest}: {count}" for digest, count in sorted(designs.items()))
        stated = _path(name).relative_to(STUDIES).with_suffix("")
        rows.append([f"`{stated}`", f"{len(done):,}", f"{asked:,}", shown or "-"])
        page = (_path(name).parent / str(file.design)).resolve()
        pages[page.name] = hashlib.sha256(page.read_bytes()).hexdigest()
    shown = "; ".join(f"`{name}` is `{digest}`" for name, digest in pages.items())
    return f"{table(['study', 'runs done', 'of', 'under the design'], rows)}\n\n{shown}."
