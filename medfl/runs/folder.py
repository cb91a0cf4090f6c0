"""A run is a folder. Everything in it is written whole or not at all, so a run that stops anywhere stays usable."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError

from medfl.data.atomic_file import write_text
from medfl.errors import MedflError
from medfl.metrics.record_types import RoundRecord, RunSummary
from medfl.runs.digests import check_files, file_digest, sealed
from medfl.runs.folder_lock import FolderLock
from medfl.runs.json_lines import (
    RESTORE,
    append_json_line,
    first_bytes,
    keep_json_lines,
    lines_digest,
    read_json_lines,
)
from medfl.runs.privacy_ledger import check_releases
from medfl.runs.round_records import read_rounds
from medfl.runs.versions import versions

if TYPE_CHECKING:
    from torch import Tensor

    from medfl.federation.server_state import ServerState
    from medfl.model.flat_model import FlatModel
    from medfl.site.site import Site
    from medfl.site.state import SiteMemory

AT_THE_END = ("at the end of the run", "all rounds")
SECONDS_ONLY = "it holds timings only, so delete it and go on"


class RunFolder:
    """The files of one run; see docs/architecture.md for the layout. Nothing here imports torch before it is needed.

    `with folder:` holds the folder: nobody else runs or resumes it meanwhile. A folder from `create` is held already.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.pipeline = self.path / "pipeline.yaml"
        self.allocation = self.path / "allocation.csv"
        self.allocation_summary = self.path / "allocation_summary.csv"
        self.rounds = self.path / "rounds.jsonl"
        self.timings = self.path / "timings.jsonl"
        self.privacy = self.path / "privacy.jsonl"
        self.checkpoint = self.path / "checkpoint"
        self.model = self.path / "model.safetensors"
        self.model_json = self.path / "model.json"
        self.summary = self.path / "summary.json"
        self.curves = self.path / "curves.json"
        self.tracking = self.path / "tracking.json"
        self.engine = self.path / "engine" / "engine.json"  # where sites have processes of their own
        self.began: dict[str, str] | None = None  # versions at the first round, where they are known
        self._pipeline_then: dict[str, Any] | None = None
        self._lock: FolderLock | None = None

    @classmethod
    def create(cls, name: str, out: Path | str | None) -> RunFolder:
        """A new folder, held: `out`, or runs/<name>-<time>. Raises MedflError if it cannot be written, holds a run, or
        another process is at work on it."""
        folder = cls(Path(out) if out else Path("runs"))
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            if out is None:
                folder = cls(_new_folder(folder.path, f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"))
            folder.hold("run")
        except OSError as error:
            raise MedflError(
                f"the run folder {folder.path} cannot be written ({error.strerror}); name another one with --out"
            ) from None
        if folder.pipeline.exists():
            folder.release()
            raise MedflError(
                f"{out} already holds a run; continue it with `medfl resume {out}` or name another folder with --out"
            )
        return folder

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """An existing run. Raises MedflError, naming the runs beside it, when there is none."""
        folder = cls(path)
        if not folder.pipeline.is_file():
            beside = Path(path).parent if Path(path).parent.is_dir() else Path("runs")
            runs = sorted((p.parent.name for p in beside.glob("*/pipeline.yaml")), reverse=True)
            listing = f" Runs in {beside}: {', '.join(runs[:5])}." if runs else ""
            raise MedflError(f"there is no run at {path} (no pipeline.yaml in it).{listing}")
        return folder

    def hold(self, what: str, wait: float = 0.0) -> RunFolder:
        """Be the only one at work on the folder, for the command `what`, until `release`. Raises as `FolderLock`."""
        if self._lock is None:
            self._lock = FolderLock(self.path, what, wait)
        return self

    def release(self) -> None:
        """Let others work on the folder."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    @contextmanager
    def holding(self, what: str, wait: float) -> Iterator[None]:
        """Hold the folder for the command `what`. Raises as `FolderLock`, and MedflError if it cannot be written."""
        try:
            self.hold(what, wait)
        except OSError as error:
            raise MedflError(f"the run folder {self.path} cannot be written: {error.strerror}") from None
        with self:
            yield

    def __enter__(self) -> RunFolder:
        return self.hold("resume")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def append(self, record: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """Add one round to rounds.jsonl and timings.jsonl."""
        append_json_line(self.rounds, record)
        append_json_line(self.timings, {"round": record["round"], **seconds})

    def save_round(
        self,
        record: Mapping[str, Any],
        phases: Mapping[str, float],
        state: ServerState,
        sites: Iterable[SiteMemory],
        seconds: Mapping[str, float],
    ) -> None:
        """Write all that a round leaves: its record, then the checkpoint. Raises MedflError if there is no room."""
        with self._written(f"after round {record['round']}", "the rounds before it"):
            self.append(record, phases)
            self.save_checkpoint(state, sites, seconds)

    @contextmanager
    def _written(self, when: str, kept: str) -> Iterator[None]:
        """Turn an error of the disk into a sentence that says what is kept and how to go on."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise MedflError(
                f"{self.path} cannot be written {when} ({reason}); {kept} are kept: make room and go on with "
                f"`medfl resume {self.path}`"
            ) from None

    def records(self) -> list[RoundRecord]:
        """The rounds so far. Raises as `read_rounds`."""
        return read_rounds(self.rounds)

    def truncate(self, rounds: int) -> None:
        """Drop the rounds from number `rounds` on: those after the checkpoint that a resumed run continues from.

        Raises:
            MedflError: a file is damaged, holds fewer rounds than the checkpoint, or so many more that the checkpoint
                is not theirs; or the privacy ledger lacks a release.
        """
        records = self.records()
        if not rounds <= len(records) <= rounds + 1:
            raise MedflError(
                f"{self.rounds} holds {len(records)} rounds, and {self.checkpoint} is the state after {rounds}: one of "
                f"the two is lost or of another time; restore both from a copy, or begin a new run in another folder"
            )
        check_releases(self.privacy, records)
        seconds = read_json_lines(self.timings, SECONDS_ONLY)
        if not all(type(line.get("round")) is int for line in seconds):
            raise MedflError(f"{self.timings} holds lines of no round; {SECONDS_ONLY}")
        keep_json_lines(self.rounds, rounds)
        keep_json_lines(self.timings, sum(line["round"] < rounds for line in seconds), SECONDS_ONLY)

    def save_checkpoint(self, state: ServerState, sites: Iterable[SiteMemory], seconds: Mapping[str, float]) -> None:
        """Replace the checkpoint by the state after a whole round."""
        from medfl.runs.checkpoint import save_checkpoint

        self.began = self.began or versions()
        sizes = {self.rounds: first_bytes(self.rounds, state.round)}
        grown = {file.name: lines_digest(file, sizes.get(file)) for file in (self.rounds, self.privacy)}
        run = {"pipeline": self._identity(), "versions": self.began, "files": grown}
        save_checkpoint(self.checkpoint, state, sites, seconds, run)

    def restate(
        self, pipeline: Path, state: ServerState, sites: Iterable[SiteMemory], seconds: Mapping[str, float]
    ) -> None:
        """Replace the checkpoint by one of a changed pipeline, which is in a file beside the run's. Raises MedflError
        if there is no room."""
        from medfl.runs.run_identity import identity

        self._pipeline_then = identity(pipeline)
        with self._written("with its new rounds", "the rounds so far"):
            self.save_checkpoint(state, sites, seconds)

    def load_checkpoint(self, sites: Mapping[str, Site]) -> tuple[ServerState, dict[str, float]] | None:
        """The state after the last whole round, and the seconds spent so far; None when no round was finished. The
        sites carry again what they carried then.

        Raises:
            MedflError: as `medfl.runs.checkpoint.load_checkpoint`; rounds.jsonl or privacy.jsonl do not begin with what
                they held then.
        """
        from medfl.runs.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(self.checkpoint, sites)
        if checkpoint is None:
            return None
        for file in (self.rounds, self.privacy):
            read_json_lines(file)  # where a line is damaged, that line is told
            then = checkpoint.run.get("files", {}).get(file.name)
            if then is not None and lines_digest(file, then[0]) != then:
                raise MedflError(
                    f"{file} is lost, shorter, or not what it was after round {checkpoint.state.round - 1}; {RESTORE}"
                )
        self.began = checkpoint.run.get("versions") or self.began
        for name, site in sites.items():
            site.restore(checkpoint.memories[name])
        return checkpoint.state, checkpoint.seconds

    def check_pipeline(self, other_rounds: bool = False) -> str:
        """What is to be told of a run before it goes on: versions that have changed since it began; "" for nothing.
        With `other_rounds` the number of rounds may differ.

        Raises:
            MedflError: pipeline.yaml is not the one that the rounds so far were made with.
        """
        from medfl.runs.checkpoint import read_run_facts
        from medfl.runs.run_identity import ROUNDS_KEY, check_identity, other_versions

        run = read_run_facts(self.checkpoint)
        if not run:
            return ""
        before, now = run.get("pipeline"), self._identity()
        if other_rounds and isinstance(before, dict):
            before = {**before, ROUNDS_KEY: now.get(ROUNDS_KEY)}
        check_identity(before, now, self.path)
        others = other_versions(run.get("versions"), versions())
        return f"{self.path} was begun with {others}; later rounds may differ in their last digits" if others else ""

    def _identity(self) -> dict[str, Any]:
        """What the pipeline is, as it was when this was first asked."""
        from medfl.runs.run_identity import identity  # brings pydantic in

        if self._pipeline_then is None:
            self._pipeline_then = identity(self.pipeline) if self.pipeline.is_file() else {}
        return self._pipeline_then

    def save_model(self, model: FlatModel, weights: Tensor, buffers: Tensor, facts: Mapping[str, Any]) -> None:
        """Write model.safetensors (timm names) and model.json. Raises MedflError if there is no room."""
        from medfl.runs.tensor_files import write_tensors

        with self._written(*AT_THE_END):
            write_tensors(self.model, model.state_dict(weights, buffers))
        self.save_facts(facts)

    def save_facts(self, facts: Mapping[str, Any]) -> None:
        """Write model.json for the model.safetensors that is there. Raises MedflError if there is no room."""
        with self._written(*AT_THE_END):
            whole = {**facts, "weights": file_digest(self.model)}
            write_text(self.model_json, json.dumps(whole, indent=2) + "\n")

    def save_summary(self, summary: RunSummary) -> None:
        """Write summary.json, with the digests of the files it belongs to. Raises MedflError if there is no room."""
        with self._written(*AT_THE_END):
            whole = sealed(summary, self.path)
            write_text(self.summary, json.dumps(whole, indent=2, allow_nan=False) + "\n")

    def save_curves(self, classes: Sequence[str], sites: Mapping[str, Mapping[str, Any]]) -> None:
        """Write curves.json: what is drawn of each site, from `medfl.metrics.site_figures`. Raises MedflError if
        there is no room."""
        curves = {"classes": list(classes), "sites": {name: dict(sites[name]) for name in sorted(sites)}}
        with self._written(*AT_THE_END):
            write_text(self.curves, json.dumps(curves, separators=(",", ":"), allow_nan=False) + "\n")

    def read_summary(self) -> RunSummary:
        """summary.json. Raises MedflError when the run has not finished, or the file is not what the run wrote."""
        from medfl.runs.records import read_json

        if not self.summary.is_file():
            raise MedflError(f"{self.path} has no summary.json yet; finish it with `medfl resume {self.path}`")
        summary = cast(RunSummary, read_json(self.summary))
        check_files(summary, self.path)
        return summary


def _new_folder(parent: Path, name: str) -> Path:
    """A folder that nobody else has made, under this name or one with a number behind. Raises OSError."""
    count = 1
    while True:
        path = parent / (name if count == 1 else f"{name}-{count}")
        try:
            path.mkdir()
        except FileExistsError:
            count += 1
        else:
            return path
