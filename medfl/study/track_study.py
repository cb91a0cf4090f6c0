"""What of a study goes to MLflow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medfl.study.run_figures import run_figures
from medfl.study.study_file import StudyFile, StudyPlan
from medfl.study.study_tables import Tables, number
from medfl.tracking.log_study import LoggedRun, log_study

FILES = ("study.json", "tables.md", "runs.csv", "sites.csv", "curves.csv", "report.html")

SINCE_0_1 = ("unit", "endpoints", "comparisons", "design", "grid", "tuned")
"""Keys that count in a study's id only where they are stated, so that an earlier study keeps its own."""


def track(study: StudyPlan, tables: Tables, findings: Mapping[str, Any], out: Path) -> str:
    """Log a study with the tracking settings of its pipeline; one line on how that went."""
    runs = []
    for run in study.runs:
        if run.key in tables.rows:
            row = tables.rows[run.key].run
            figures = {name: value for name in run_figures() if (value := number(row, name)) is not None}
            params = {key: str(value) for key, value in run.identity.items() if value != ""} | {"chain": row["chain"]}
            runs.append(LoggedRun(run.title, run.key, params, figures))
    means = {
        f"{partition}/{method}/{figure}": mean["mean"]
        for partition, part in findings["partitions"].items()
        for method, entry in part["methods"].items()
        for figure, mean in entry["figures"].items()
        if mean["mean"] is not None
    }
    is_used = {key: getattr(study.file, key) != StudyFile.model_fields[key].default for key in SINCE_0_1}
    later: dict[str, Any] = {key: True for key, used in is_used.items() if not used}
    later |= {} if is_used["tuned"] else {"methods": {"__all__": {"tuned_as"}}}
    study_id = hashlib.sha256(study.file.model_dump_json(exclude=later).encode()).hexdigest()[:16]
    files = [out / name for name in FILES if (out / name).is_file()]
    return log_study(study_id, study.file.name, study.runs[0].pipeline.tracking, means, runs, files)
