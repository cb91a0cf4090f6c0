"""`tracking.json`: which MLflow runs mirror a run folder, and how far they have come.

    {"run_uuid": ..., "current": uri,
     "servers": {uri: {"experiment_id", "finished", "failures", "model_id", "model_ready", "artifacts": {name: digest},
                       "federation": mark, "sites": {name: mark}}}}, an address (uri) without user and password
    mark = {"run_id", "described", "status", "logged": next step, "attempted": step, "final": 0 | 1 | 2}

Everything is written down before it is tried: `attempted` and `final = 1` mean "MLflow may have it", `logged` and
`final = 2` "MLflow has it". After a crash only what lies between the two has to be asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medfl.data.atomic_file import write_text
from medfl.data.file_lock import lock_file
from medfl.errors import MedflError
from medfl.runs.records import read_json
from medfl.tracking.connect import shown

STATE = "tracking.json"


@dataclass
class Mark:
    """How far one MLflow run has come."""

    run_id: str = ""
    described: bool = False
    status: str = "RUNNING"
    logged: int = 0
    attempted: int = 0
    final: int = 0


@dataclass
class TrackingServer:
    """One tracking server's copy of the run."""

    experiment_id: str = ""
    finished: bool = False
    failures: str = ""
    model_id: str = ""
    model_ready: bool = False
    artifacts: dict[str, str] = field(default_factory=dict)
    federation: Mark = field(default_factory=Mark)
    sites: dict[str, Mark] = field(default_factory=dict)

    @property
    def marks(self) -> dict[str | None, Mark]:
        """The federation's run (None), then the sites' by name."""
        marks: dict[str | None, Mark] = {None: self.federation}
        for site, mark in self.sites.items():
            marks[site] = mark
        return marks

    def renew(self, run_id: str) -> None:
        """Go on with another run for the federation ("": one yet to be made), to which nothing was uploaded."""
        self.federation = Mark(run_id)
        self.finished, self.failures, self.artifacts = False, "", {}
        self.model_id, self.model_ready = "", False


@dataclass
class State:
    """The content of `tracking.json`."""

    folder: Path
    run_uuid: str
    current: str | None = None
    servers: dict[str, TrackingServer] = field(default_factory=dict)

    @staticmethod
    def load(folder: Path) -> State:
        """Read the state, or begin one."""
        path = folder / STATE
        if not path.is_file():
            return State(folder, uuid.uuid4().hex)
        raw = read_json(path)
        try:
            servers = {shown(uri): _server(server) for uri, server in raw["servers"].items()}
            current = None if raw["current"] is None else shown(raw["current"])
            if not re.fullmatch("[0-9a-f]{32}", raw["run_uuid"]):
                raise ValueError
            return State(folder, raw["run_uuid"], current, servers)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise MedflError(f"{path} is damaged; delete it, and `medfl track` uploads the run anew") from None

    def save(self) -> None:
        """Write the state atomically. Raises MedflError when the run folder cannot be written."""
        servers = {uri: asdict(server) for uri, server in self.servers.items()}
        text = json.dumps({"run_uuid": self.run_uuid, "current": self.current, "servers": servers}, indent=1)
        path = self.folder / STATE
        try:
            write_text(path, text + "\n")
        except OSError as error:
            raise MedflError(f"{path} cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Let one thread or process at a time work on a folder.

    Raises:
        MedflError: no such folder; or another process works on it and `wait` is false.
    """
    if not folder.is_dir():
        raise MedflError(f"there is no run folder {folder}")
    handle = os.open(folder, os.O_RDONLY)
    try:
        if lock_file(handle, wait) is False:  # without locks, two at work on one folder are the user's to avoid
            raise MedflError(f"another process is at work on {folder}; wait for it or stop it")
        yield
    finally:
        os.close(handle)


def _server(raw: dict[str, Any]) -> TrackingServer:
    sites = {name: Mark(**mark) for name, mark in raw.pop("sites").items()}
    return TrackingServer(federation=Mark(**raw.pop("federation")), sites=sites, **raw)
