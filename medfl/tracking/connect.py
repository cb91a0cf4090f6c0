"""Which MLflow, and a quiet client for it."""

from __future__ import annotations

import functools
import logging
import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from medfl import config
from medfl.errors import MedflError, nearest
from medfl.plain_text import visible
from medfl.runs.redact import without_credentials
from medfl.tracking.local_database import prepare_database

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DEFAULT_URI = "sqlite:///mlflow.db"
ARTIFACTS = "mlartifacts"
DATABASES = {"sqlite", "mysql", "postgresql", "mssql"}  # with or without a driver: mysql+pymysql
SCHEMES = DATABASES | {"file", "http", "https", "databricks", "databricks-uc", "uc"}
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7 retries of 120 s would hold up the end of a run
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # else a lock file in the working directory becomes part of a logged model
}
"""Settings of MLflow that hold unless the user has set them."""


def resolve_uri(tracking: config.Tracking, recorded: str | None = None) -> str:
    """The tracking server: the pipeline's, MLFLOW_TRACKING_URI, the one this run went to before, or sqlite here.

    A run folder keeps an address without its password. Where MLFLOW_TRACKING_URI is the same address, it says the rest.
    A relative sqlite file becomes absolute, so that a run folder finds it from any working directory.
    """
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    uri = tracking.uri or environment or recorded or DEFAULT_URI
    if environment and shown(environment) == uri:
        uri = environment
    file = _sqlite_file(uri)
    return uri if file is None else f"sqlite:///{file}"


@functools.cache
def _plugins() -> frozenset[str]:
    """Kinds of address that installed plugins of MLflow add; a study asks with every run."""
    return frozenset(entry.name for entry in entry_points(group="mlflow.tracking_store"))


def check_scheme(uri: str) -> None:
    """Raise MedflError for an address of a kind that neither MLflow nor a plugin of it knows. Imports neither."""
    scheme = urlsplit(uri).scheme.lower()
    kinds = _plugins() | SCHEMES
    if len(scheme) > 1 and scheme not in kinds and scheme.partition("+")[0] not in DATABASES:
        raise MedflError(
            f"`tracking.uri` (or MLFLOW_TRACKING_URI): MLflow knows no address of the kind {scheme}:."
            f"{nearest(scheme, kinds)} It knows {', '.join(sorted(kinds))}, and a folder's path"
        )


def client_for(uri: str) -> MlflowClient:
    """A client for a resolved URI; creates the folder of a sqlite file. Imports MLflow (seconds, the first time)."""
    file = _sqlite_file(uri)
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MedflError(f"`tracking.uri`: {file.parent} cannot be made: {error.strerror}") from None
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise MedflError(f"`tracking.uri`: {file} cannot be written; choose another place with MLFLOW_TRACKING_URI")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for logger in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    if file is not None:
        prepare_database(file, artifact_location(uri))
    return MlflowClient(tracking_uri=uri)


def artifact_location(uri: str) -> str | None:
    """Where a new experiment keeps its artifacts: beside a sqlite file; None leaves it to the server."""
    file = _sqlite_file(uri)
    return None if file is None else str(file.parent / ARTIFACTS)


def shown(uri: str) -> str:
    """A URI without user and password, as it is kept in a run folder and told to people. A file has neither."""
    return uri if _sqlite_file(uri) is not None else without_credentials(uri)


def mlflow_errors() -> tuple[type[Exception], ...]:
    """What a server that is away, full, too old or lacks a driver raises."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, OSError, ImportError)


def brief(error: Exception) -> str:
    """The first line of an error, at most 200 characters, without passwords."""
    text = str(error).strip() or type(error).__name__
    return visible(without_credentials(text.splitlines()[0]))[:200]


def _sqlite_file(uri: str) -> Path | None:
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///")).expanduser().absolute()
