"""A pipeline as a run folder keeps it: sites inlined, paths absolute, keys in their present spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from medfl.config.pipeline_config import Baseline
from medfl.config.yaml_file import read_mapping


def read_resolved(file: Path) -> dict[str, Any]:
    """The keys and values of a resolved pipeline, of this version or an older one. Raises MedflError as `read_mapping`
    does."""
    raw = read_mapping(file, "pipeline")
    rename_old_keys(raw)
    return raw


def rename_old_keys(raw: dict[str, Any]) -> tuple[str, ...]:
    """Put keys in an old spelling into the present one, in place; a sentence for the user about each.

    Until version 0.1 a baseline stood in `method`, as if it were one.
    """
    method = raw.get("method")
    if not isinstance(method, list) or raw.get("baseline") is not None:
        return ()
    for baseline in get_args(Baseline):
        for entry in (baseline, {"name": baseline}):
            if entry in method:
                raw["method"] = [other for other in method if other != entry]
                raw["baseline"] = baseline
                return (f"`method: [{baseline}]` is now written `baseline: {baseline}`",)
    return ()
