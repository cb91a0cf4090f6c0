"""A model out of MLflow, by the names MLflow and its users give it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from medfl import config
from medfl.errors import MedflError, nearest
from medfl.runs.records import CARD, MODEL, WEIGHTS
from medfl.tracking.connect import brief, client_for, mlflow_errors, resolve_uri, shown

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

_RUN = re.compile(r"(?:runs:/)?([0-9a-f]{32})(?:/model)?")
_REGISTERED = re.compile(r"models:/([^/@]+)(?:@([^/@]+)|/([^/@]+))")


@dataclass(frozen=True)
class Fetched:
    """A model on this machine.

    Attributes:
        directory: holds `model.safetensors` and `model.json`. Read only: it may be MLflow's own copy.
        run: name of the run folder it came from, if MLflow says so.
        run_id: the MLflow run of its federation.
        uri: how it was found, `models:/name/version` or `runs:/id`.
    """

    directory: Path
    run: str | None
    run_id: str
    uri: str

    @property
    def card(self) -> Path | None:
        """The model card that lies beside its files, if there is one."""
        path = self.directory.parent / CARD
        return path if path.is_file() else None


def is_reference(text: str) -> bool:
    """Whether a text names a model in MLflow: `runs:/<id>`, a bare run id, `models:/...`."""
    return text.startswith(("runs:/", "models:/")) or _RUN.fullmatch(text) is not None


def fetch_model(ref: str, tracking: config.Tracking) -> Fetched:
    """Find a model in MLflow and bring it here.

    Args:
        ref: `runs:/<id>` or a bare run id (a site's run means its federation), `models:/name@alias`,
            `models:/name/version`.
        tracking: which server.

    Raises:
        MedflError: no such run, model, version or alias (the nearest existing ones are shown), or no server.
    """
    uri = resolve_uri(tracking)
    try:
        client = client_for(uri)
        if run := _RUN.fullmatch(ref):
            return _of_run(client, uri, run[1])
        if registered := _REGISTERED.fullmatch(ref):
            name, alias, version = registered.groups()
            return _of_version(client, uri, find_version(client, name, alias=alias, version=version))
    except mlflow_errors() as error:
        raise MedflError(f"{ref} cannot be fetched from MLflow at {shown(uri)}: {brief(error)}") from error
    raise MedflError(f"{ref} names no model; write runs:/<run id>, models:/name@alias or models:/name/version")


def find_version(
    client: MlflowClient, name: str, *, alias: str | None = None, version: str | None = None
) -> ModelVersion:
    """A registered version by alias or number. Raises MedflError showing what exists."""
    from mlflow.exceptions import MlflowException

    try:
        if alias:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        _explain(client, name, alias, version)


def fetch_version(client: MlflowClient, uri: str, version: ModelVersion) -> Fetched:
    """Bring a registered version here."""
    return _of_version(client, uri, version)


def _of_run(client: MlflowClient, uri: str, run_id: str) -> Fetched:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
        if parent := run.data.tags.get("mlflow.parentRunId"):
            run = client.get_run(parent)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise MedflError(f"MLflow at {shown(uri)} has no run {run_id}") from None
    models = run.outputs.model_outputs if run.outputs else []
    if not models:
        raise MedflError(f"the MLflow run {run_id} has no model; finish the run and upload it with `medfl track`")
    model = client.get_logged_model(models[-1].model_id)
    directory = _download(model.artifact_location, uri, f"runs:/{run_id}")
    return Fetched(directory, run.data.tags.get("medfl.run"), run.info.run_id, f"runs:/{run.info.run_id}")


def _of_version(client: MlflowClient, uri: str, version: ModelVersion) -> Fetched:
    name = f"models:/{version.name}/{version.version}"
    location = client.get_model_version_download_uri(version.name, version.version)
    if location.startswith("models:/"):
        location = client.get_logged_model(location.removeprefix("models:/")).artifact_location
    directory = _download(location, uri, name)
    return Fetched(directory, version.tags.get("medfl.run"), version.run_id or "", name)


def _download(location: str, uri: str, name: str) -> Path:
    import mlflow

    directory = Path(mlflow.artifacts.download_artifacts(artifact_uri=location, tracking_uri=uri)) / "artifacts"
    if not all((directory / file).is_file() for file in (WEIGHTS, MODEL)):
        raise MedflError(f"{name} was not made by medfl: it has no {WEIGHTS} and {MODEL}")
    return directory


def _explain(client: MlflowClient, name: str, alias: str | None, version: str | None) -> NoReturn:
    models = {model.name: model for model in client.search_registered_models()}
    if name not in models:
        listed = f" Registered: {', '.join(sorted(models))}." if models else " Nothing is registered yet."
        raise MedflError(f"there is no registered model {name!r}.{nearest(name, models) or listed}")
    if alias:
        aliases = sorted(models[name].aliases)
        hint = f" It has: {', '.join(aliases)}." if aliases else " It has none."
        raise MedflError(f"the registered model {name!r} has no alias {alias!r}.{nearest(alias, aliases) or hint}")
    versions = sorted(int(v.version) for v in client.search_model_versions(f"name='{name}'"))
    raise MedflError(f"the registered model {name!r} has no version {version}; it has {', '.join(map(str, versions))}")
