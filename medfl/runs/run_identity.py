"""What a run is from its first round to its last: the keys of its pipeline that its figures depend on, and versions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medfl.config.resolved import read_resolved
from medfl.errors import MedflError
from medfl.runs.digests import json_digest
from medfl.runs.redact import LOCAL, scrub

FREE = re.compile(
    r"(?:.+\.)?description|tracking(?:\..+)?|registry(?:\..+)?|training\.(?:threads|workers|timeout|device)"
    r"|data\.(?:root|cache|source_groups)|sites\..+\.data\.(?:root|source_groups)|evaluation\.batch_size"
    r"|(?:.+\.)?data\.features\.(?:slide_)?table|sites\.[^.]+\.[^.]+\.about(?:\..+)?"
)
"""Keys that say where things are, how fast they go, what becomes of the result, and words for people. Where data lie
may change; that they are the same data is another check (`medfl.runs.data_record.check_data`)."""
SHOWN = 60  # characters of a value in a sentence
ABSENT = object()
ROUNDS_KEY = "training.rounds"


def identity(pipeline: Path) -> dict[str, Any]:
    """Dotted key -> value of a run's pipeline.yaml, without the keys that its figures do not depend on; of what names a
    path or a folder, its digest. Sites go by their names, since their order means nothing. Raises MedflError as
    `read_resolved` does."""
    leaves = {key: value for key, value in _leaves(read_resolved(pipeline), "") if not FREE.fullmatch(key)}
    return {key: _as_kept(value, key) for key, value in leaves.items()}


def check_identity(before: Any, now: Mapping[str, Any], folder: Path) -> None:
    """Raise MedflError, naming the keys, where the pipeline of a run is not what its rounds were made with."""
    if not isinstance(before, dict):
        raise MedflError(f"{folder / 'checkpoint'} does not say what pipeline it belongs to; restore it from a copy")
    before = {key: _as_kept(value, key) for key, value in before.items()}  # an earlier version kept more as it is
    keys = [key for key in sorted({*before, *now}) if before.get(key, ABSENT) != now.get(key, ABSENT)]
    if not keys:
        return
    changes = "; ".join(
        f"`{key}` was {_shown(before.get(key, ABSENT))} and is now {_shown(now.get(key, ABSENT))}" for key in keys[:5]
    )
    more = f"; and {len(keys) - 5} more keys" if len(keys) > 5 else ""
    wanted = now.get(ROUNDS_KEY)
    further = f", go on with `medfl resume {folder} --rounds {wanted}`" if keys == [ROUNDS_KEY] else ""
    raise MedflError(
        f"{folder / 'pipeline.yaml'} is not the pipeline that the rounds of this run were made with: {changes}{more}. "
        f"Change it back to go on{further}, or begin a new run with it"
    )


def other_versions(before: Any, now: Mapping[str, str]) -> str:
    """`torch 2.8.0 (now 2.9.0)` and so on for what differs; "" for nothing."""
    if not isinstance(before, Mapping):
        return ""
    return ", ".join(
        f"{name} {before[name]} (now {now[name]})" for name in now if before.get(name, now[name]) != now[name]
    )


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, list) and prefix == "sites.":
            item = {site.get("name", at) if isinstance(site, dict) else at: site for at, site in enumerate(item)}
        if isinstance(item, dict) and item and key != "labels":  # whose keys are names of folders
            yield from _leaves(item, f"{name}.")
        else:
            yield name, item


def _as_kept(value: Any, key: str) -> Any:
    """A value, or its digest where it tells of paths or patients."""
    kept = isinstance(value, str) and value.startswith(f"{LOCAL} ")
    return value if kept or scrub(value, key.rpartition(".")[2]) == value else f"{LOCAL} {json_digest(value)[:16]}"


def _shown(value: Any) -> str:
    text = "not there" if value is ABSENT else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
