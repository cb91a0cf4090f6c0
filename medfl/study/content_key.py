"""The digest by which a study knows a run."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from medfl import config
from medfl.runs.versions import installed_version

# What does not change a run's figures, or lies elsewhere on another machine; the data itself is in the data digest.
NOT_CONTENT = ("name", "description", "tracking", "registry")
# How long is waited, how many threads and workers, and what is measured beside the tables of a study.
NOT_FIGURES = (
    ("training", "threads"),
    ("training", "workers"),
    ("training", "timeout"),
    ("training", "clock"),  # a study's runs are of one process, where only one clock goes
    ("evaluation", "members"),
    ("evaluation", "subgroups"),
)


def content_key(pipeline: config.Pipeline) -> str:
    """12 hex digits over everything in a resolved pipeline that decides the figures, and the version of medfl."""
    content = pipeline.model_dump(mode="json", exclude_none=True)
    for key in NOT_CONTENT:
        content.pop(key, None)
    for section, key in NOT_FIGURES:
        content[section].pop(key, None)
    if content["evaluation"].get("patients") == "mean":  # as before there was a choice
        del content["evaluation"]["patients"]
    _without_paths(content["data"], "root", "cache", "source_groups")
    _without_paths(content["data"].get("features") or {}, "table", "slide_table")
    for site in content["sites"]["train"] + content["sites"]["held_out"]:
        for words in ("description", "about"):
            site.pop(words, None)
        _without_paths(site.get("data") or {}, "root", "source_groups")
        _without_paths((site.get("data") or {}).get("features") or {}, "table", "slide_table")
    text = json.dumps([content, installed_version()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without_paths(section: dict[str, Any], *keys: str) -> None:
    for key in keys:
        if "/" in str(section.get(key, "")) or key in ("root", "cache"):
            section.pop(key, None)
