"""registered.json: under which names a run's model entered the registry, for its report and card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from medfl.data.atomic_file import write_text
from medfl.errors import MedflError
from medfl.plain_text import visible
from medfl.runs.records import read_json

REGISTERED = "registered.json"


def note_registration(folder: Path, name: str, version: str, alias: str | None) -> None:
    """Write down that a run is a version of a registered model. Raises MedflError where it cannot be written."""
    noted = _read(folder) | {name: {"version": version, "alias": alias}}
    try:
        write_text(folder / REGISTERED, json.dumps(noted, indent=1) + "\n")
    except OSError as error:
        raise MedflError(
            f"{folder / REGISTERED} cannot be written ({error.strerror}); the model is registered as {name}, version "
            f"{version}"
        ) from None


def registration(folder: Path) -> str:
    """`quickstart version 3 (champion)`: where a run's model is; "" where it is not registered."""
    return "; ".join(place(name, str(entry["version"]), entry["alias"]) for name, entry in _read(folder).items())


def place(name: str, version: str, alias: str | None) -> str:
    """A version in words, with the alias that was set when it was registered."""
    return visible(f"{name} version {version}{f' ({alias})' if alias else ''}")


def _read(folder: Path) -> dict[str, Mapping[str, str | None]]:
    path = folder / REGISTERED
    noted = read_json(path) if path.is_file() else {}
    if not all(isinstance(entry, dict) and {"version", "alias"} == entry.keys() for entry in noted.values()):
        raise MedflError(f"{path} is damaged; delete it, and `medfl register` writes it anew")
    return noted
