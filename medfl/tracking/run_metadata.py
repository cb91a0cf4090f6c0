"""What MLflow is told about a run besides its figures: tags, parameters, data sets, files. All of it scrubbed."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from medfl.plain_text import markdown, visible
from medfl.runs.headline import headline
from medfl.runs.records import ALLOCATION, PIPELINE, ROUNDS, SUMMARY, RunRecords, SiteData
from medfl.runs.redact import reason_class, scrub
from medfl.runs.versions import installed_version
from medfl.tracking.metric_names import plain
from medfl.tracking.model_card import paragraphs

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

MAX_VALUE = 500
"""Characters of a parameter: MLflow 3 takes 6000, servers of older versions 500."""
MAX_TAG = 5000


def run_tags(run: RunRecords, run_uuid: str, role: str, site: str | None) -> dict[str, str]:
    """Tags of the federation's run (`role` "federation", no site) or of a site's run."""
    tags = {
        "medfl.run_id": run_uuid,
        "medfl.run": run.name,
        "medfl.version": installed_version(),
        "role": role,
        "method": run.method,
        "seed": str(run.pipeline.get("seed", 0)),
        **origin(f"medfl run, pipeline {run.pipeline.get('name', run.name)}"),
    }
    return tags | ({"site": site} if site else {"mlflow.note.content": note(run)})


def origin(source: str) -> dict[str, str]:
    """The tags that MLflow shows as "Source" and "Created by": the command, and the account it ran under."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in some containers
        user = "unknown"
    return {"mlflow.source.name": visible(source), "mlflow.source.type": "LOCAL", "mlflow.user": visible(user)}


def result_tags(summary: Mapping[str, Any], federation: bool) -> dict[str, str]:
    """Tags of a finished run: what is no number, or no more than one of a run."""
    tags = {"medfl.leaky": str(bool(summary["leaky"])).lower()}
    if not federation:
        return tags
    said = visible(headline(summary).sentence)[:MAX_TAG]
    return tags | {"medfl.selected_round": str(summary["selected_round"]), "medfl.misses": said}


def note(run: RunRecords) -> str:
    """The short description MLflow shows beside the federation's run."""
    roles = list(run.roles.values())
    training = run.pipeline.get("training") or {}
    name = markdown(run.pipeline.get("name", run.name))
    text = (
        f"**{name}**: {markdown(run.method)} across {roles.count('train')} training sites, "
        f"{training.get('rounds', '?')} rounds, measured at {roles.count('held_out')} held-out sites. "
        "The step of a curve is the round; what is there once is at step 0. One child run a site."
    )
    return "\n".join([text, *paragraphs(run.pipeline.get("description"))])


def parameters(run: RunRecords) -> dict[str, str]:
    """The resolved pipeline as flat dotted parameters; of the sites only the names, of the method its links."""
    pipeline = scrub(run.pipeline)
    sites = {role: ", ".join(s for s, r in run.roles.items() if r == role) for role in ("train", "held_out")}
    links = {
        e["name"]: {k: v for k, v in e.items() if k != "name"}
        for e in pipeline.get("method") or []
        if isinstance(e, dict)
    }
    replaced = {"sites": sites, "method": {"chain": run.method, **links}}
    settings = {key: value for key, value in pipeline.items() if key not in ("description", "name")}
    return {key: visible(value, lines=True)[:MAX_VALUE] for key, value in _dotted(settings | replaced).items() if value}


def failures_text(run: RunRecords) -> str:
    """Which site failed in which round and how, for the tag `medfl.failures`; empty without failures."""
    lines = [
        f"round {record['round']}: {failure['site']} ({reason_class(str(failure['reason']))})"
        for record in run.rounds
        for failure in record["failures"]
    ]
    return "; ".join(lines)[:MAX_TAG]


def dataset(site: str, data: SiteData) -> DatasetInput:
    """A site's data as an MLflow input: counts and a content digest; its source says nothing about where it lies."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    classes = sorted({name for by_class in data.patches.values() for name in by_class})
    profile = {"patches": data.total(), "groups": data.groups, "splits": data.patches, "withheld": data.withheld}
    described = Dataset(
        name=site,
        digest=data.digest,
        source_type="code",
        source=json.dumps({"tags": {"site": site}}),
        schema=json.dumps({"classes": classes}),
        profile=json.dumps(profile),
    )
    context = "train" if data.role == "train" else "holdout"
    return DatasetInput(dataset=described, tags=[InputTag("mlflow.data.context", context)])


def artifacts(run: RunRecords, over: bool) -> dict[str, str]:
    """File name -> text for the federation's run. The rounds follow once when the run is over."""
    files = {PIPELINE: yaml.safe_dump(scrub(run.pipeline), sort_keys=False, allow_unicode=True)}
    if run.data:
        files[ALLOCATION] = (run.folder / ALLOCATION).read_text(encoding="utf-8")
    if over:
        files[ROUNDS] = "".join(json.dumps(scrub(record)) + "\n" for record in run.rounds)
    if run.summary is not None:
        files[SUMMARY] = json.dumps(scrub(run.summary), indent=1) + "\n"
    return files


def _dotted(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        flat: dict[str, str] = {}
        for key, item in value.items():
            name = plain(str(key))
            flat |= _dotted(item, f"{prefix}.{name}" if prefix else name)
        return flat
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        return {prefix: json.dumps(value)}
    if isinstance(value, list):
        return {prefix: ", ".join(map(str, value))}
    return {prefix: "" if value is None else str(value)}
