"""A run folder as the tracking room reads it. Reading changes nothing."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from medfl.config.resolved import read_resolved
from medfl.errors import MedflError
from medfl.metrics.record_types import RoundRecord, RunSummary
from medfl.plain_text import visible
from medfl.runs.round_records import read_rounds

PIPELINE = "pipeline.yaml"
ALLOCATION = "allocation_summary.csv"
ROUNDS = "rounds.jsonl"
SUMMARY = "summary.json"
REPORT = "report.html"
WEIGHTS = "model.safetensors"
MODEL = "model.json"
CARD = "model_card.md"


@dataclass(frozen=True)
class SiteData:
    """One site's line-up in `allocation_summary.csv`.

    Attributes:
        role: "train" or "held_out".
        patches: patches by split and class; a class whose count is withheld has none here.
        groups: sum over splits and classes of source groups; no group is in two splits, one may hold two classes.
        digest: what the rows' content digests hash to, 32 hex digits.
        withheld: whether counts of classes of few source groups are left out, so that the site holds more than this.
    """

    role: str
    patches: Mapping[str, Mapping[str, int]]
    groups: int
    digest: str
    withheld: bool = False

    def total(self) -> int:
        """Patches of the site."""
        return sum(sum(by_class.values()) for by_class in self.patches.values())


@dataclass(frozen=True)
class RunRecords:
    """What a run folder holds so far."""

    folder: Path
    pipeline: Mapping[str, Any]
    rounds: tuple[RoundRecord, ...]
    summary: RunSummary | None

    @property
    def name(self) -> str:
        """The folder's name, which names the run everywhere."""
        return visible(self.folder.resolve().name)

    @cached_property
    def roles(self) -> dict[str, str]:
        """Site name -> "train" or "held_out", in the pipeline's order."""
        sites = self.pipeline.get("sites") or {}
        return {s["name"]: role for role in ("train", "held_out") for s in sites.get(role) or []}

    @cached_property
    def data(self) -> dict[str, SiteData]:
        """Site name -> its data, from `allocation_summary.csv`; empty while that is not written."""
        path = self.folder / ALLOCATION
        if not path.is_file():
            return {}
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        by_site: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            by_site.setdefault(row["site"], []).append(row)
        return {site: _site_data(rows) for site, rows in by_site.items()}

    @property
    def methods(self) -> list[str]:
        """Names of the methods of the chain, or of the baseline in its place; none are FedAvg."""
        if self.pipeline.get("baseline"):
            return [str(self.pipeline["baseline"])]
        return [entry if isinstance(entry, str) else str(entry["name"]) for entry in self.pipeline.get("method") or []]

    @property
    def method(self) -> str:
        """The chain in one word: `fedavg`, `fedprox+ecgr`."""
        return "+".join(self.methods) or "fedavg"

    @property
    def papers(self) -> dict[str, str]:
        """Method -> "arXiv:..." or "doi:...", of those that state one."""
        return papers(self.summary or {}, self.methods)

    @property
    def leaky(self) -> bool | None:
        """Whether copies of one source may be on both sides of a split; None before the run has said so."""
        return None if self.summary is None else bool(self.summary["leaky"])


def papers(summary: Mapping[str, Any], methods: Iterable[str]) -> dict[str, str]:
    """Method -> "arXiv:..." or "doi:...", as a run's summary says; before it did, of methods that medfl has."""
    if "papers" in summary:
        return dict(summary["papers"])
    from medfl.methods.core.registry import citations  # PyTorch, which reading a run must not wait for

    return citations(methods)


def read_run(folder: Path) -> RunRecords:
    """Read a run folder, finished or not.

    Raises:
        MedflError: it is no run folder, or one of its files is damaged.
    """
    path = folder / PIPELINE
    if not path.is_file():
        raise MedflError(f"{folder} is no run folder: it has no {PIPELINE}")
    pipeline = read_resolved(path)
    summary = cast(RunSummary, read_json(folder / SUMMARY)) if (folder / SUMMARY).is_file() else None
    return RunRecords(folder, pipeline, tuple(read_rounds(folder / ROUNDS)), summary)


def finished_run(folder: Path) -> RunRecords:
    """Read a run folder that has a result. Raises MedflError when the run is not finished."""
    run = read_run(folder)
    absent = [name for name in (SUMMARY, WEIGHTS, MODEL) if not (folder / name).is_file()]
    if absent:
        raise MedflError(f"{folder} is not finished (no {absent[0]}); `medfl resume {folder}` goes on with it")
    return run


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON mapping. Raises MedflError when it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MedflError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise MedflError(f"{path}: not a JSON mapping")
    return value


def _site_data(rows: list[dict[str, str]]) -> SiteData:
    patches: dict[str, dict[str, int]] = {}
    for row in rows:
        by_class = patches.setdefault(row["split"], {})
        by_class[row["class"]] = by_class.get(row["class"], 0) + int(row["patches"] or 0)
    facts = sorted([row["split"], row["class"], row["digest"]] for row in rows)
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    groups = sum(int(row["groups"] or 0) for row in rows)
    return SiteData(rows[0]["role"], patches, groups, digest, "" in [row["groups"] for row in rows])
