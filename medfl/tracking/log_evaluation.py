"""What `medfl evaluate` measured, in MLflow: one run under the federation's, one child run a site."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfl import config
from medfl.errors import MedflError
from medfl.runs.records import read_run
from medfl.runs.redact import scrub
from medfl.tracking import metric_names
from medfl.tracking.connect import artifact_location, brief, client_for, resolve_uri, shown
from medfl.tracking.run_metadata import origin
from medfl.tracking.sync import experiment_id
from medfl.tracking.sync_state import State

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RESULT = "evaluation.json"


def log_evaluation(result: Mapping[str, Any], run_id: str | None = None, folder: Path | None = None) -> str:
    """Log the figures of an evaluation; never raises, because the figures are still to be shown.

    Args:
        result: {"run", "fingerprint", "sites", "held_out"} with the `sites` layout of `summary.json`.
        run_id: MLflow run of the federation, where the model came from MLflow.
        folder: run folder of the model, if it is on this machine; its tracking settings count.

    Returns:
        One line for people.
    """
    try:
        tracking, recorded = tracking_of(folder)
    except MedflError as error:
        return f"MLflow: the evaluation is not logged ({error})"
    if not tracking.enabled:
        return "MLflow: off (`tracking.enabled: false`)"
    uri = resolve_uri(tracking, recorded.current if recorded else None)
    if run_id is None and recorded and shown(uri) in recorded.servers:
        run_id = recorded.servers[shown(uri)].federation.run_id or None
    try:
        client = client_for(uri)
        experiment = _experiment_of(client, run_id)
        if experiment is None:  # this server does not know the federation: the evaluation stands alone
            run_id, experiment = None, experiment_id(client, tracking.experiment, artifact_location(uri))
        logged = _log(client, experiment, run_id, result)
    except MedflError as error:
        return f"MLflow: the evaluation is not logged ({error})"
    except Exception as error:  # whatever goes wrong here, the figures are sound
        return f"MLflow: the evaluation is not logged ({brief(error)})"
    return f"MLflow: the evaluation is run {logged} at {shown(uri)}"


def tracking_of(folder: Path | None) -> tuple[config.Tracking, State | None]:
    """Where a run folder says that things are logged, and where it was so far; the defaults without one. Raises
    MedflError."""
    if folder is None:
        return config.Tracking(), None
    return config.Tracking(**(read_run(folder).pipeline.get("tracking") or {})), State.load(folder)


def _experiment_of(client: MlflowClient, run_id: str | None) -> str | None:
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        return str(client.get_run(run_id).info.experiment_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _log(client: MlflowClient, experiment: str, parent: str | None, result: Mapping[str, Any]) -> str:
    tags = {"medfl.run": str(result["run"]), "medfl.fingerprint": str(result["fingerprint"])}
    tags |= origin(f"medfl evaluate {result['run']}")
    top = client.create_run(
        experiment,
        tags=tags | {"role": "evaluation"} | ({"mlflow.parentRunId": parent} if parent else {}),
        run_name=f"evaluation-{time.strftime('%Y%m%d-%H%M%S')}",
    ).info.run_id
    figures: dict[str, metric_names.Values] = {top: metric_names.held_out(result)}
    for site, entry in result["sites"].items():
        site_tags = tags | {"role": str(entry["role"]), "site": site, "mlflow.parentRunId": top}
        child = client.create_run(experiment, tags=site_tags, run_name=site)
        figures[child.info.run_id] = metric_names.site_final(entry, None)
    for run, values in figures.items():
        log_values(client, run, values)
        client.set_terminated(run)
    client.log_text(top, json.dumps(scrub(result), indent=1) + "\n", RESULT)
    return str(top)


def log_values(client: MlflowClient, run_id: str, values: metric_names.Values) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(key, value, now, 0) for key, value in values.items()])
