"""What MLflow takes as the name of a registered model and as an alias."""

from __future__ import annotations

import re

LONGEST = 255


def check_model_name(name: str) -> None:
    """Raise ValueError, in words, for a name that MLflow or a file system would refuse."""
    if not re.fullmatch(r"[\w\-. ]+", name) or name != name.strip() or not name.strip("."):
        raise ValueError("a model's name in the registry has letters, digits, inner spaces and `-_.` only")
    _check_length(name)


def check_alias(alias: str) -> None:
    """Raise ValueError, in words, for an alias that MLflow refuses or keeps for itself."""
    if not re.fullmatch(r"[\w\-]+", alias):
        raise ValueError("an alias has letters, digits and `-_` only")
    if alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
        raise ValueError("MLflow keeps `latest` and versions such as `v1` for itself; take a word such as champion")
    _check_length(alias)


def _check_length(text: str) -> None:
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text)} characters, and {LONGEST} are the most")
