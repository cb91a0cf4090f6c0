"""A run is a folder. Everything in it is written whole or not at all, so a run that stops anywhere stays usable."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medfl.errors import MedflError
from medfl.federation.server_state import InFlightReply, ServerState
from medfl.messages import Reply
from medfl.metrics.record_types import RoundRecord
from medfl.model.flat_model import FlatModel
from medfl.site.site import Site, SiteMemory

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
            known = f" Runs in {beside}: {', '.join(runs[:5])}." if runs else ""
            raise MedflError(f"there is no run at {path} (no pipeline.yaml in it).{known}")
        return folder

    def append(self, record: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
        """Add one round to rounds.jsonl and timings.jsonl."""
        for file, line in ((self.rounds, record), (self.timings, {"round": record["round"], **seconds})):
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, allow_nan=False) + "\n")
                stream.flush()
                os.fsync(stream.fileno())

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
        """The rounds so far; a torn last line (a write cut short) is left out."""
        return [cast(RoundRecord, line) for line in json_lines(self.rounds)]

    def truncate(self, rounds: int) -> None:
        """Drop the rounds from number `rounds` on: those after the checkpoint that a resumed run continues from."""
        for file in (self.rounds, self.timings):
            kept = [line for line in json_lines(file) if line["round"] < rounds]
            write_text(file, "".join(json.dumps(line) + "\n" for line in kept))

    def save_checkpoint(self, state: ServerState, sites: Iterable[SiteMemory], seconds: Mapping[str, float]) -> None:
        """Replace the checkpoint by the state after a whole round."""
        staged = self.path / "checkpoint.new"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        tensors = {"weights": state.weights, "buffers": state.buffers}
        if state.previous is not None:
            tensors["previous"] = state.previous
        facts: dict[str, Any] = {"round": state.round, "accepted": state.accepted, "lost": state.lost}
        facts |= {"seconds": dict(seconds), "facts": state.json_state, "clock": state.clock}
        tensors |= {f"link.{name}": tensor for name, tensor in state.tensors.items()}
        facts["flights"] = {name: flight_facts(flight) for name, flight in state.in_flight.items()}
        for name, flight in state.in_flight.items():
            tensors |= {f"flight.{name}.{part}": tensor for part, tensor in flight_tensors(flight).items()}
            # Sites dispatched in one round share the model they received, so it is stored once.
            tensors[f"received.{flight.reply.round}"] = flight.received.clone()
        if state.best is not None:
            facts["best"] = state.best[:2]
            tensors |= {"best_weights": state.best[2], "best_buffers": state.best[3]}
        for site in sites:
            held, pending = site.state, site.pending
            parts = {f"state.{k}": v for k, v in held.items()}
            if pending is not None:
                facts.setdefault("pending", {})[site.name] = pending[0]
                parts |= {f"pending.{k}": v for k, v in pending[1].items()}
            if parts:
                save_tensors(parts, staged / f"site-{site.name}.safetensors")
        save_tensors(tensors, staged / "server.safetensors")
        write_text(staged / "state.json", json.dumps(facts))
        # The old checkpoint is moved aside before the new one takes its name: at every instant one of the two
        # that have had its name is whole, and `load_checkpoint` takes the newest. After a kill between the two renames
        # the one moved aside is all there is, so it goes only when there is a newer one.
        old = self.path / "checkpoint.old"
        if self.checkpoint.exists():
            shutil.rmtree(old, ignore_errors=True)
            self.checkpoint.rename(old)
        staged.rename(self.checkpoint)
        flush(self.path)
        shutil.rmtree(old, ignore_errors=True)

    def load_checkpoint(self, sites: Mapping[str, Site]) -> tuple[ServerState, dict[str, float]] | None:
        """The state after the last whole round, and the seconds spent so far; None when no round was finished.

        Raises:
            MedflError: there is a checkpoint and it is damaged, so that going on would begin anew and lose the rounds.
        """
        folders = [folder for folder in (self.checkpoint, self.path / "checkpoint.old") if folder.exists()]
        for folder in folders:
            try:
                facts = json.loads((folder / "state.json").read_text())
                tensors = aligned(load_file(folder / "server.safetensors"))
                files = {name: folder / f"site-{name}.safetensors" for name in sites}
                held_by = {name: load_file(file) if file.exists() else {} for name, file in files.items()}
            except (OSError, ValueError, SafetensorError):
                continue
            for name, site in sites.items():
                parts = aligned(held_by[name])
                site.state = {k[6:]: v for k, v in parts.items() if k.startswith("state.")}
                held = {k[8:]: v for k, v in parts.items() if k.startswith("pending.")}
                round_ = facts.get("pending", {}).get(name)
                site.pending = None if round_ is None else (round_, held)
            best = None
            if "best" in facts:
                best = (
                    int(facts["best"][0]),
                    float(facts["best"][1]),
                    tensors["best_weights"],
                    tensors["best_buffers"],
                )
            state = ServerState(
                round=facts["round"],
                weights=tensors["weights"],
                buffers=tensors["buffers"],
                previous=tensors.get("previous"),
                accepted=facts["accepted"],
                best=best,
                lost=facts["lost"],
                tensors={name[5:]: tensor for name, tensor in tensors.items() if name.startswith("link.")},
                json_state=facts["facts"],
                clock=facts["clock"],
                in_flight={name: load_flight(name, held, tensors) for name, held in facts["flights"].items()},
            )
            return state, facts["seconds"]
        if folders:
            raise MedflError(f"{self.checkpoint} is damaged; restore it, or begin a new run in another folder")
        return None

    def save_model(self, model: FlatModel, weights: Tensor, buffers: Tensor, facts: Mapping[str, Any]) -> None:
        """Write model.safetensors (timm names) and model.json. Raises MedflError if there is no room."""
        staged = self.model.with_suffix(".tmp")
        with self._written(*AT_THE_END):
            save_tensors(model.state_dict(weights, buffers), staged)
            os.replace(staged, self.model)
            write_text(self.model_json, json.dumps(dict(facts), indent=2) + "\n")

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json. Raises MedflError if there is no room."""
        with self._written(*AT_THE_END):
            write_text(self.summary, json.dumps(dict(summary), indent=2, allow_nan=False) + "\n")

    def save_curves(self, classes: Sequence[str], sites: Mapping[str, Mapping[str, Any]]) -> None:
        """Write curves.json: what is drawn of each site, from `medfl.metrics.site_figures`. Raises MedflError if
        there is no room."""
        curves = {"classes": list(classes), "sites": {name: dict(sites[name]) for name in sorted(sites)}}
        with self._written(*AT_THE_END):
            write_text(self.curves, json.dumps(curves, separators=(",", ":"), allow_nan=False) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """summary.json. Raises MedflError when the run has not finished."""
        if not self.summary.is_file():
            raise MedflError(f"{self.path} has no summary.json yet; finish it with `medfl resume {self.path}`")
        summary: dict[str, Any] = json.loads(self.summary.read_text(encoding="utf-8"))
        return summary


def flight_facts(flight: InFlightReply) -> dict[str, Any]:
    """The numbers of a reply on its way."""
    reply = flight.reply
    numbers = {"round": reply.round, "samples": reply.samples, "steps": reply.steps, "train_loss": reply.train_loss}
    return numbers | {"arrival": flight.arrival, "bytes_up": flight.bytes_up}


def flight_tensors(flight: InFlightReply) -> dict[str, Tensor]:
    """The vectors of a reply on its way, but for the model it started from."""
    assert flight.reply.update is not None
    assert flight.reply.buffers is not None
    extra = {f"extra.{name}": tensor for name, tensor in flight.reply.extra.items()}
    return {"update": flight.reply.update, "buffers": flight.reply.buffers, **extra}


def load_flight(site: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> InFlightReply:
    """A reply on its way from its numbers and the tensors of a checkpoint."""
    prefix = f"flight.{site}."
    parts = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    numbers = dict(facts)
    arrival, bytes_up = numbers.pop("arrival"), numbers.pop("bytes_up")
    extra = {name.removeprefix("extra."): tensor for name, tensor in parts.items() if name.startswith("extra.")}
    reply = Reply(site, update=parts["update"], buffers=parts["buffers"], extra=extra, **numbers)
    return InFlightReply(reply, tensors[f"received.{reply.round}"], arrival, bytes_up)


def write_text(path: Path, text: str) -> None:
    """Write a file whole: to a temporary name, flushed to disk, then renamed into place."""
    staged = path.with_name(path.name + ".tmp")
    with staged.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(staged, path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file and flush it to disk."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    first: dict[int, str] = {}  # what a site's method keeps unchanged is one tensor in its state and in the pending one
    for name, tensor in whole.items():
        if first.setdefault(tensor.data_ptr(), name) != name:
            whole[name] = tensor.clone()
    save_file(whole, path)
    flush(path)


def flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or the names in a folder."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def json_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The JSON lines of a file, up to a torn one."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            try:
                yield json.loads(line)
            except ValueError:
                return


def aligned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies at addresses as round as those of fresh tensors: sums over a vector depend on where it begins."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a model.safetensors. Raises MedflError when the file is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MedflError(f"{path} is not a readable safetensors file: {error}") from None


def versions() -> dict[str, str]:
    """Versions that make a number reproducible."""
    import platform
    from importlib.metadata import version

    names = ("medfl", "torch", "torchvision", "timm", "numpy")
    found = {name: version(name) for name in names}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {**found, "python": platform.python_version(), "device": device}
