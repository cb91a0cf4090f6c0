"""A finished run's model into the registry: the gates of its pipeline, and the alias's holder on the same sites."""

from __future__ import annotations

from pathlib import Path

from medfl.config import Gates
from medfl.errors import MedflError
from medfl.pipeline.evaluate_model import TrainedModel, measure_model, sites_to_measure
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.runs.folder import RunFolder
from medfl.runs.records import read_json
from medfl.tracking.model_registry import register


def register_run(path: str | Path, *, name: str, alias: str | None = None, force: bool = False) -> str:
    """Register a run's model; returns one line for people.

    Raises:
        GateFailed: a gate, or the present holder of the alias is better; the registry is untouched.
        MedflError: no such run, not finished, no MLflow.
    """
    folder = RunFolder.open(path)
    pipeline = load_pipeline(folder.pipeline)
    settings = pipeline.registry
    if folder.summary.is_file() and not folder.model_json.is_file():
        raise MedflError(f"{path} trained one model a site, so there is no global model to register")

    def evaluate_holder(directory: Path) -> dict[str, float | None]:
        """The holder's AUROC at this run's held-out sites."""
        holder = TrainedModel(directory, read_json(directory / "model.json"), None)
        measured = measure_model(holder, sites_to_measure(holder, (), str(folder.pipeline)), resamples=0)
        return {site: entry["auroc"] for site, entry in measured.sites.items()}

    done = register(
        folder.path,
        name=name,
        alias=alias,
        gates=settings.gates if settings else Gates(),
        margin=settings.margin if settings else 0.01,
        force=force,
        tracking=pipeline.tracking,
        evaluate_holder=evaluate_holder,
    )
    what = f"Registered: {done.uri} (version {done.version})"
    return f"{what}; forced over: {done.forced}" if done.forced else what
