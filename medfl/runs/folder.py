"""A run is a folder. Everything in it is written whole or not at all, so a run that stops anywhere stays usable."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from torch import Tensor

from medfl.data.atomic_file import write_text
from medfl.errors import MedflError
from medfl.federation.server_state import ServerState
from medfl.metrics.record_types import RoundRecord, RunSummary
from medfl.model.flat_model import FlatModel
from medfl.runs.checkpoint import load_checkpoint, save_checkpoint
from medfl.runs.json_lines import append_json_line, read_json_lines, write_json_lines
from medfl.runs.tensor_files import write_tensors
from medfl.site.site import Site
from medfl.site.state import SiteMemory

AT_THE_END = ("at the end of the run", "all rounds")


class RunFolder:
    """The files of one run; see docs/architecture.md for the layout."""

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

    @classmethod
    def create(cls, name: str, out: Path | str | None) -> RunFolder:
        """A new folder: `out`, or runs/<name>-<time>. Raises MedflError if it cannot be written or holds a run."""
        path = Path(out) if out else Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if out is None:
            stem, count = path, 1
            while path.exists():
                count += 1
                path = stem.with_name(f"{stem.name}-{count}")
        elif (path / "pipeline.yaml").exists():
            raise MedflError(
                f"{path} already holds a run; continue it with `medfl resume {path}` or name another folder with --out"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise MedflError(
                f"the run folder {path} cannot be written ({error.strerror}); name another one with --out"
            ) from None
        return cls(path)

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
        """The rounds so far. Raises as `read_json_lines`."""
        return [cast(RoundRecord, line) for line in read_json_lines(self.rounds)]

    def truncate(self, rounds: int) -> None:
        """Drop the rounds from number `rounds` on: those after the checkpoint that a resumed run continues from."""
        for file in (self.rounds, self.timings):
            write_json_lines(file, [line for line in read_json_lines(file) if line["round"] < rounds])

    def save_checkpoint(self, state: ServerState, sites: Iterable[SiteMemory], seconds: Mapping[str, float]) -> None:
        """Replace the checkpoint by the state after a whole round."""
        save_checkpoint(self.checkpoint, state, sites, seconds)

    def load_checkpoint(self, sites: Mapping[str, Site]) -> tuple[ServerState, dict[str, float]] | None:
        """The state after the last whole round, and the seconds spent so far; None when no round was finished. The
        sites carry again what they carried then. Raises as `medfl.runs.checkpoint.load_checkpoint`."""
        checkpoint = load_checkpoint(self.checkpoint, sites)
        if checkpoint is None:
            return None
        for name, site in sites.items():
            site.restore(checkpoint.memories[name])
        return checkpoint.state, checkpoint.seconds

    def save_model(self, model: FlatModel, weights: Tensor, buffers: Tensor, facts: Mapping[str, Any]) -> None:
        """Write model.safetensors (timm names) and model.json. Raises MedflError if there is no room."""
        with self._written(*AT_THE_END):
            write_tensors(self.model, model.state_dict(weights, buffers))
            write_text(self.model_json, json.dumps(dict(facts), indent=2) + "\n")

    def save_summary(self, summary: RunSummary) -> None:
        """Write summary.json. Raises MedflError if there is no room."""
        with self._written(*AT_THE_END):
            write_text(self.summary, json.dumps(dict(summary), indent=2, allow_nan=False) + "\n")

    def save_curves(self, classes: Sequence[str], sites: Mapping[str, Mapping[str, Any]]) -> None:
        """Write curves.json: what is drawn of each site, from `medfl.metrics.site_figures`. Raises MedflError if
        there is no room."""
        curves = {"classes": list(classes), "sites": {name: dict(sites[name]) for name in sorted(sites)}}
        with self._written(*AT_THE_END):
            write_text(self.curves, json.dumps(curves, separators=(",", ":"), allow_nan=False) + "\n")

    def read_summary(self) -> RunSummary:
        """summary.json. Raises MedflError when the run has not finished."""
        if not self.summary.is_file():
            raise MedflError(f"{self.path} has no summary.json yet; finish it with `medfl resume {self.path}`")
        summary: RunSummary = json.loads(self.summary.read_text(encoding="utf-8"))
        return summary
