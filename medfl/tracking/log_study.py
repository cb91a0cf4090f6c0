"""A study in MLflow: one parent run with the tables, one child run for every run of the study, in an experiment of its
own (`<experiment>-studies`), where they do not stand between runs that have curves and models.

A study is known by the digest of its file, and a run of it by its key, so that logging a study again adds what is new
and repeats nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medfl import config
from medfl.errors import MedflError
from medfl.runs.redact import scrub_text
from medfl.tracking import metric_names
from medfl.tracking.connect import artifact_location, brief, client_for, resolve_uri, shown
from medfl.tracking.run_metadata import origin
from medfl.tracking.sync import METRICS_PER_CALL, PARENT_TAG, experiment_id

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

STUDY_TAG = "medfl.study_id"
RUN_TAG = "medfl.study_run"


@dataclass(frozen=True)
class LoggedRun:
    """One run of a study: `title` for people, `key` and `params` that name it, `figures` by name."""

    title: str
    key: str
    params: Mapping[str, str]
    figures: Mapping[str, float]


def log_study(
    study_id: str,
    name: str,
    tracking: config.Tracking,
    figures: Mapping[str, float],
    runs: Sequence[LoggedRun],
    files: Sequence[Path],
) -> str:
    """Bring MLflow up to date with a study; never raises, because everything is on disk already.

    Args:
        study_id: digest of the study file.
        name: of the study.
        tracking: the pipeline's settings.
        figures: of the study as a whole.
        runs: the finished ones.
        files: tables and report; they hold numbers and names of sites only.

    Returns:
        One line for people.
    """
    if not tracking.enabled:
        return "MLflow: off (`tracking.enabled: false`)"
    uri = resolve_uri(tracking)
    try:
        client = client_for(uri)
        experiment = experiment_id(client, f"{tracking.experiment}-studies", artifact_location(uri))
        parent = _log(client, experiment, study_id, name, figures, runs, files)
    except MedflError as error:
        return f"MLflow: the study is not logged ({error})"
    except Exception as error:  # whatever goes wrong here, the study is sound
        return f"MLflow: the study is not logged ({brief(error)}); start it again to log it"
    return f"MLflow: the study is run {parent} at {shown(uri)}"


def _log(
    client: MlflowClient,
    experiment: str,
    study_id: str,
    name: str,
    figures: Mapping[str, float],
    runs: Sequence[LoggedRun],
    files: Sequence[Path],
) -> str:
    from mlflow.entities import Param

    runs_there = client.search_runs([experiment], f"tags.`{STUDY_TAG}` = '{study_id}'", max_results=50_000)
    there = {run.data.tags.get(RUN_TAG): str(run.info.run_id) for run in runs_there}
    tags = {STUDY_TAG: study_id, "medfl.study": name, **origin(f"medfl study {name}")}
    parent = there.get(None)
    if parent is None:
        created = client.create_run(experiment, tags=tags | {"role": "study"}, run_name=name)
        parent = str(created.info.run_id)
    for run in runs:
        if run.key in there:
            continue
        mine = {RUN_TAG: run.key, PARENT_TAG: parent, "role": "study run"}
        child = client.create_run(experiment, tags=tags | mine, run_name=run.title).info.run_id
        client.log_batch(child, params=[Param(key, scrub_text(value)) for key, value in run.params.items()])
        _log_figures(client, child, run.figures)
        client.set_terminated(child)
    _log_figures(client, parent, figures)
    for file in files:
        client.log_artifact(parent, str(file))
    client.set_terminated(parent)
    return parent


def _log_figures(client: MlflowClient, run_id: str, figures: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    parts = {"/".join(metric_names.plain(part) for part in key.split("/")): value for key, value in figures.items()}
    metrics = [Metric(key, value, now, 0) for key, value in parts.items()]
    for start in range(0, len(metrics), METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_CALL])
