"""A run enters the model registry: behind gates, and never in the place of a better model."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medfl import config
from medfl.config.registry_names import check_alias, check_model_name
from medfl.errors import GateFailed, MedflError, RunFailed
from medfl.metrics import mean_supported
from medfl.metrics.record_types import RunSummary
from medfl.runs.gates import check, passed_bounds
from medfl.runs.records import CARD, MODEL, RunRecords, finished_run, read_json
from medfl.runs.redact import scrub
from medfl.runs.verdict import why_unmeasured, why_untrained
from medfl.tracking.connect import brief, client_for, mlflow_errors, resolve_uri, shown
from medfl.tracking.download import fetch_version
from medfl.tracking.log_model import UUID_TAG
from medfl.tracking.model_card import model_card, model_description
from medfl.tracking.sync import sync
from medfl.tracking.sync_state import State

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

MAX_DESCRIPTION = 5000
CUT = f"\n\n... (the whole card is {CARD} among the model's files)"
GATES_TAG = "medfl.gates"
SiteAuroc = Mapping[str, float | None]


@dataclass(frozen=True)
class Registered:
    """A run's place in the registry.

    Attributes:
        name, version, alias: of the registered model; the alias is None when none was asked for.
        uri: `models:/name@alias` or `models:/name/version`.
        run_id: the MLflow run of the federation.
        created: False when this run already was a version of this model.
        forced: what `force` overrode, in words; "" for nothing.
        gates: the bounds that it passed, at this or an earlier registration.
    """

    name: str
    version: str
    alias: str | None
    uri: str
    run_id: str
    created: bool
    forced: str = ""
    gates: Mapping[str, float] = field(default_factory=dict)


def register(
    folder: Path,
    *,
    name: str,
    alias: str | None = None,
    gates: config.Gates | None = None,
    margin: float = 0.01,
    force: bool = False,
    tracking: config.Tracking,
    evaluate_holder: Callable[[Path], SiteAuroc] | None = None,
    measured: Mapping[str, Any] | None = None,
) -> Registered:
    """Register a finished run's model and let an alias point at it. A run becomes one version at most.

    Args:
        folder: a finished run folder; it is uploaded first where MLflow does not have it yet.
        name: of the registered model.
        alias: to be moved to this version, unless its present holder is better.
        gates: what the result must reach; `force` does not open them.
        margin: how much worse (mean held-out AUROC) than the alias's holder is still accepted.
        force: move the alias all the same; recorded in the version tag `medfl.forced`.
        tracking: which server.
        evaluate_holder: measures the holder when it was not measured on these held-out data before: takes a folder
            with model.safetensors and model.json, returns held-out site -> AUROC.
        measured: parts of summary.json that were measured anew; recorded in the version tag `medfl.remeasured`.

    Raises:
        RunFailed: the run came to no result, or has no figure for a gate; the registry is as before (exit code 1).
        GateFailed: a gate or the alias guard refuses, or the alias has moved; the alias is as before (exit code 3).
        MedflError: the run is not finished, a name is not allowed, or MLflow does not answer.
    """
    _check_names(name, alias)
    run = _eligible(folder, measured, gates)
    result = sync(folder, tracking, finished=True)
    state = State.load(folder)
    uri = resolve_uri(tracking, state.current)
    try:
        client = client_for(uri)
        holder, refusal = _holder(client, name, alias) if alias else None, ""
        if holder is not None and holder.tags.get(UUID_TAG) != state.run_uuid:
            refusal = _refusal(client, uri, run, holder, margin, evaluate_holder)
        if holder is not None and refusal and not force:
            raise GateFailed(f"{alias!r} stays at version {holder.version} of {name!r}: {refusal}; --force moves it")
        before = _version_of(client, name, state.run_uuid)
        passed = passed_bounds(gates, before.tags.get(GATES_TAG) if before else None)
        model_id = state.servers[shown(uri)].model_id
        run = _asking(run, name, alias, passed)
        version = before or _only_version(client, name, run, result.run_id, state, model_id, passed)
        _say_gates(client, run, version, passed)
        if measured is not None:
            client.set_model_version_tag(name, version.version, "medfl.remeasured", "true")
        if alias:
            _move_alias(client, name, alias, holder, version)
        if refusal:
            client.set_model_version_tag(name, version.version, "medfl.forced", refusal)
    except mlflow_errors() as error:
        raise MedflError(f"MLflow at {shown(uri)} does not register {run.name}: {brief(error)}") from error
    place = f"models:/{name}@{alias}" if alias else f"models:/{name}/{version.version}"
    return Registered(name, str(version.version), alias, place, result.run_id, before is None, refusal, passed)


def _eligible(folder: Path, measured: Mapping[str, Any] | None, gates: config.Gates | None) -> RunRecords:
    """The run, with what was measured anew; one that may enter the registry. Raises as `register`."""
    run = finished_run(folder)
    if measured is not None:
        run = replace(run, summary=cast(RunSummary, {**cast(dict[str, Any], run.summary), **measured}))
    refuse_failed_run(run)
    _pass_gates(run, gates)
    return run


def _say_gates(client: MlflowClient, run: RunRecords, version: ModelVersion, passed: Mapping[str, float]) -> None:
    """Have a version's tag and description say which gates its model passed."""
    text = json.dumps(passed)
    if version.tags.get(GATES_TAG) != text:
        client.set_model_version_tag(version.name, version.version, GATES_TAG, text)
        client.update_model_version(version.name, version.version, _card(run))


def _asking(run: RunRecords, name: str, alias: str | None, passed: Mapping[str, float]) -> RunRecords:
    """The run as if its pipeline asked for this place in the registry under these gates, which its card tells."""
    asked = {"name": name, "alias": alias, "gates": dict(passed)}
    return replace(run, pipeline={**run.pipeline, "registry": asked})


def _pass_gates(run: RunRecords, gates: config.Gates | None) -> None:
    """Raise GateFailed where the run misses a bound, RunFailed where it has no figure for one."""
    misses = check(run.summary or {}, gates, run.roles) if gates else []
    if misses:
        kind = RunFailed if any(miss.value is None for miss in misses) else GateFailed
        raise kind(f"{run.name} does not enter the registry: {'; '.join(map(str, misses))}. The run is kept")


def refuse_failed_run(run: RunRecords) -> None:
    """Raise RunFailed where the run's model was not trained, or was not measured at any site of a role."""
    summary: Mapping[str, Any] = run.summary or {}
    reason = why_untrained(run.rounds, int(summary["selected_round"])) or why_unmeasured(
        run.roles, summary["sites"], summary.get("failures") or ()
    )
    if reason:
        raise RunFailed(f"{run.name} does not enter the registry: {reason}. The run is kept")


def _check_names(name: str, alias: str | None) -> None:
    for option, word, check_word in (("--name", name, check_model_name), ("--alias", alias, check_alias)):
        try:
            if word is not None:
                check_word(word)
        except ValueError as error:
            raise MedflError(f"{option} {word!r}: {error}") from None


def held_out_digest(run: RunRecords) -> str:
    """What the held-out sites hash to: two runs with one digest were measured on the same patches, rendered alike.

    The allocation's digests tell files apart, not what rendering makes of them, so its settings are hashed as well.
    """
    data = run.pipeline.get("data") or {}
    shared = {key: data.get(key) for key in ("stain_strength", "mpp", "render", "tissue")}
    shared |= {"store": data["store"]} if data.get("store") else {}  # where there is none, digests of before hold
    sites = {site["name"]: site for site in (run.pipeline.get("sites") or {}).get("held_out") or []}
    facts = [
        [name, run.data[name].digest, {key: site.get(key) for key in ("stain", "stain_strength", "mpp", "render")}]
        for name, site in sorted(sites.items())
        if name in run.data
    ]
    text = json.dumps([run.pipeline["task"]["classes"], shared, facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def held_out_auroc(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Held-out site -> AUROC, None where it has none."""
    return {name: site["auroc"] for name, site in summary["sites"].items() if site["role"] == "held_out"}


def _holder(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """The version an alias points at; None when the model or the alias does not exist."""
    models = {model.name: model for model in client.search_registered_models(f"name='{name}'")}
    version = models[name].aliases.get(alias) if name in models else None
    return None if version is None else client.get_model_version(name, str(version))


def _refusal(
    client: MlflowClient,
    uri: str,
    run: RunRecords,
    holder: ModelVersion,
    margin: float,
    evaluate_holder: Callable[[Path], SiteAuroc] | None,
) -> str:
    """Why the alias may not move, or "". Both models are compared over the sites where both have an AUROC."""
    ours = held_out_auroc(run.summary or {})
    if not any(value is not None for value in ours.values()):
        return "the new model has no held-out AUROC to compare"
    theirs: SiteAuroc
    if holder.tags.get("held_out.digest") == held_out_digest(run):
        theirs = json.loads(holder.tags["held_out.sites"])
    elif evaluate_holder is not None:
        try:
            theirs = evaluate_holder(fetch_version(client, uri, holder).directory)
        except MedflError as error:
            return f"its holder cannot be measured on these held-out data ({error})"
    else:
        return "its holder was measured on other held-out data, so that nothing says which model is better"
    return _worse(ours, theirs, margin)


def _worse(ours: SiteAuroc, theirs: SiteAuroc, margin: float) -> str:
    """Why a new model is no substitute for the holder, from the AUROC of both by site; "" where it is."""
    lost = [site for site, value in theirs.items() if value is not None and ours.get(site) is None]
    if lost:
        return f"the new model has no AUROC at {', '.join(lost)}, where its holder has one"
    both = [site for site, value in ours.items() if value is not None and theirs.get(site) is not None]
    our_mean, their_mean = (mean_supported([values[site] for site in both]) for values in (ours, theirs))
    if our_mean is None or their_mean is None:
        return "no held-out site has an AUROC of both models"
    if our_mean >= their_mean - margin:
        return ""
    return (
        f"on the same held-out sites the new model has a mean AUROC of {our_mean:.4f} and its holder {their_mean:.4f}, "
        f"which is worse by more than the margin {margin:g}"
    )


def _version_of(client: MlflowClient, name: str, run_uuid: str) -> ModelVersion | None:
    """The version this run already is, if any."""
    versions = client.search_model_versions(f"name='{name}'")
    return next((version for version in versions if version.tags.get(UUID_TAG) == run_uuid), None)


def _only_version(
    client: MlflowClient,
    name: str,
    run: RunRecords,
    run_id: str,
    state: State,
    model_id: str,
    gates: Mapping[str, float],
) -> ModelVersion:
    """Create the version of a run. Of several, which another copy of the run folder may have made at the same time, the
    first stays."""
    _create_version(client, name, run, run_id, model_id, state.run_uuid, gates)
    versions = client.search_model_versions(f"name='{name}'")
    ours = sorted((v for v in versions if v.tags.get(UUID_TAG) == state.run_uuid), key=lambda v: int(v.version))
    for extra in ours[1:]:
        with contextlib.suppress(*mlflow_errors()):  # the other one may have removed it
            client.delete_model_version(name, extra.version)
    return ours[0]


def _move_alias(
    client: MlflowClient, name: str, alias: str, holder: ModelVersion | None, version: ModelVersion
) -> None:
    """Let an alias point at a version where its holder still is the one that this was compared with. Raises
    GateFailed."""
    now = _holder(client, name, alias)
    rival = None if holder is None else str(holder.version)
    if now is not None and str(now.version) not in (rival, str(version.version)):
        raise GateFailed(
            f"{alias!r} of {name!r} has moved to version {now.version} while this model was compared with "
            f"{'no other' if rival is None else f'version {rival}'}; give the command again"
        )
    client.set_registered_model_alias(name, alias, version.version)


def _create_version(
    client: MlflowClient,
    name: str,
    run: RunRecords,
    run_id: str,
    model_id: str,
    run_uuid: str,
    gates: Mapping[str, float],
) -> ModelVersion:
    summary: Mapping[str, Any] = run.summary or {}
    settings = scrub(read_json(run.folder / MODEL))
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name, description=model_description(run, settings))
    tags = {
        UUID_TAG: run_uuid,
        "medfl.run": run.name,
        "method": run.method,
        "seed": str(summary["seed"]),
        "leaky": str(bool(summary["leaky"])).lower(),
        "fingerprint": str(settings.get("fingerprint")),
        "held_out.mean_auroc": json.dumps(summary["held_out"]["mean_auroc"]),
        "held_out.digest": held_out_digest(run),
        "held_out.sites": json.dumps(held_out_auroc(summary)),
        GATES_TAG: json.dumps(gates),
    }
    return client.create_model_version(
        name,
        # not `models:/<id>`: a database store would look that up on the process's global server
        source=client.get_logged_model(model_id).artifact_location,
        run_id=run_id,
        tags=tags,
        description=_card(run),
        model_id=model_id,
    )


def _card(run: RunRecords) -> str:
    """The model card, as far as a version's description holds it."""
    card = model_card(run.summary or {}, scrub(read_json(run.folder / MODEL)), run.pipeline, run.data)
    return card if len(card) <= MAX_DESCRIPTION else card[: MAX_DESCRIPTION - len(CUT)] + CUT
