"""What of a run folder names files, or holds patches, keys or what sites keep: what that is, and its removal.

What stays is what a report, a dossier and the model need. `purged.json` says when the rest went, since a run without it
cannot go on: nothing is left with which its data could be compared.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from medfl.config.resolved import read_resolved
from medfl.data.atomic_file import write_text
from medfl.errors import MedflError
from medfl.runs.data_record import KEY_FILE
from medfl.runs.folder import RunFolder
from medfl.runs.redact import LOCAL, PATH_KEYS, PATIENT_KEYS, WORDS, scrub_text, without_credentials

PURGED = "purged.json"
KEPT = ("engine.json", "audit.jsonl", "audit.end")  # of what lies in `engine`: no name of a file is in them


def private_parts(run: Path) -> list[Path]:
    """The files and folders of a run folder that stay with those who hold the data, sorted; pipeline.yaml, which also
    holds paths, is not among them."""
    folder = RunFolder(run)
    named = [folder.allocation, run / KEY_FILE, folder.checkpoint, *run.glob(f"{folder.checkpoint.name}.*")]
    named += run.glob("report*with-patches.html")
    engine = run / "engine"
    for place in [engine] if engine.is_symlink() else engine.glob("*"):
        inner = [place] if place.is_symlink() or not place.is_dir() else place.iterdir()
        named += [path for path in inner if path.name not in KEPT]
    return sorted(path for path in named if path.exists() or path.is_symlink())


def purge(run: Path) -> None:
    """Remove the private parts of a run folder, and the paths from its pipeline.yaml.

    Raises:
        MedflError: another process is at work on it, or something cannot be removed.
    """
    folder = RunFolder.open(run)
    with folder.holding("purge", 0.0):
        try:
            write_text(run / PURGED, json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}) + "\n")
            remove(private_parts(run))
            pipeline = _without_paths(read_resolved(folder.pipeline))
            write_text(folder.pipeline, yaml.safe_dump(pipeline, sort_keys=False, allow_unicode=True))
        except OSError as error:
            raise MedflError(
                f"{error.filename or run} cannot be removed ({error.strerror}); the rest may be gone already: give the "
                f"same command again once it can"
            ) from None


def remove(paths: Iterable[Path]) -> None:
    """Remove files, folders with what is in them, and links without what they name. Raises OSError."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def check_unpurged(run: Path, what: str) -> None:
    """Raise MedflError where a run was purged; `what` is what then cannot be done."""
    if (run / PURGED).is_file():
        raise MedflError(
            f"{run} was purged: what names its files and holds its state is gone, so {what}; begin a new run"
        )


def _without_paths(value: Any, key: str = "") -> Any:
    """A pipeline whose paths, and names of patients, are `<local>`; it can still be read."""
    if isinstance(value, Mapping):
        kept = {name: item for name, item in value.items() if name != "cache"}  # then the user's own, as by default
        return {name: _without_paths(item, str(name)) for name, item in kept.items()}
    if key in PATIENT_KEYS and value:
        return [LOCAL]
    if isinstance(value, list):
        return [_without_paths(item, key) for item in value]
    if not isinstance(value, str) or value in WORDS:
        return value
    if key == "uri":
        return without_credentials(value)
    return LOCAL if key in PATH_KEYS else scrub_text(value)
