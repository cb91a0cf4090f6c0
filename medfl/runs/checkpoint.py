"""The state after a whole round, on a disk: the server's, the replies on their way to it, and the sites' memories.

checkpoint/  state.json                numbers and names; what the run is (pipeline, versions); the SHA-256 of the other
                                       files and of its own rest, so that one flipped bit is noticed
             server.safetensors        the server's vectors; `link.<name>` those of methods, `flight.<site>.<part>` and
                                       `received.<round>` those of replies on their way
             site-<name>.safetensors   a site's memory, where it carries anything
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from medfl.data.atomic_file import PRIVATE_FOLDER, flush, write_text
from medfl.errors import MedflError
from medfl.federation.server_state import InFlightReply, ServerState
from medfl.federation.stain_agreement import StainAgreement
from medfl.messages import Reply
from medfl.runs.digests import DIGESTS, OWN_DIGEST, file_digest, json_digest
from medfl.runs.tensor_files import read_tensors, save_tensors
from medfl.site.state import SiteMemory

STATE, SERVER = "state.json", "server.safetensors"
METHOD, FLIGHT, RECEIVED, EXTRA = "link.", "flight.", "received.", "extra."  # before the names of tensors


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    Attributes:
        state: the server's, entering the next round.
        memories: of the sites that were asked for, by name.
        seconds: spent so far, by phase.
        run: what was said of the run besides; nothing before version 0.2.
    """

    state: ServerState
    memories: dict[str, SiteMemory]
    seconds: dict[str, float]
    run: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    state: ServerState,
    memories: Iterable[SiteMemory],
    seconds: Mapping[str, float],
    run: Mapping[str, Any] | None = None,
) -> None:
    """Replace the checkpoint in the folder `path` by the state after a whole round; `run` is what is to be said of the
    run besides, as JSON. Raises OSError, SafetensorError."""
    staged = path.with_name(f"{path.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(PRIVATE_FOLDER)  # holds what sites keep
    facts, tensors = _encode(state, seconds)
    for memory in memories:
        parts, numbers = memory.encode()
        if numbers["pending"] is not None:
            facts.setdefault("pending", {})[memory.site] = numbers["pending"]
        if parts:
            save_tensors(parts, _site_file(staged, memory.site))
    save_tensors(tensors, staged / SERVER)
    facts |= {"run": dict(run or {}), DIGESTS: {file.name: file_digest(file) for file in sorted(staged.iterdir())}}
    write_text(staged / STATE, json.dumps(facts | {OWN_DIGEST: json_digest(facts)}))
    # The old checkpoint is moved aside before the new one takes its name: at every instant one of the two that have had
    # its name is whole, and `load_checkpoint` takes the newest. After a kill between the two renames the one moved
    # aside is all there is, so it goes only when there is a newer one.
    old = _moved_aside(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    staged.rename(path)
    flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(path: Path, sites: Iterable[str] = ()) -> Checkpoint | None:
    """The state after the last whole round, with the memories of these sites; None when no round was finished.

    Raises:
        MedflError: there is a checkpoint and it is damaged, so that going on would begin anew and lose the rounds.
    """
    damage = ""
    names = list(sites)
    for folder in (path, _moved_aside(path)):
        if not folder.exists():
            continue
        try:
            return _load(folder, names)
        except (OSError, ValueError, SafetensorError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            damage = damage or f"{path} is damaged ({error}); restore it, or begin a new run in another folder"
    if damage:
        raise MedflError(damage)
    return None


def read_run_facts(path: Path) -> Mapping[str, Any]:
    """What the last checkpoint says of its run, without its state; nothing where it says nothing, or cannot be read:
    that is for `load_checkpoint` to say."""
    try:
        run = _read_state(path if path.exists() else _moved_aside(path)).get("run", {})
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def _load(folder: Path, sites: Iterable[str]) -> Checkpoint:
    """What a folder holds, each file as it was written. Raises whatever a damaged one leads to."""
    facts = _read_state(folder)
    for name, digest in facts.get(DIGESTS, {}).items():
        if file_digest(folder / name) != digest:
            raise ValueError(f"{name} is not what was written")
    tensors = read_tensors(folder / SERVER)
    files = {site: _site_file(folder, site) for site in sites}
    parts = {site: read_tensors(file) if file.exists() else {} for site, file in files.items()}
    pending = facts.get("pending", {})
    memories = {site: SiteMemory.decode(site, own, {"pending": pending.get(site)}) for site, own in parts.items()}
    return Checkpoint(_decode(facts, tensors), memories, dict(facts["seconds"]), facts.get("run", {}))


def _read_state(folder: Path) -> dict[str, Any]:
    """state.json. Raises OSError, ValueError."""
    facts = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if not isinstance(facts, dict) or not facts:
        raise ValueError(f"{STATE} is no state")
    digest = facts.pop(OWN_DIGEST, None)
    if digest is None and DIGESTS in facts:
        raise ValueError(f"{STATE} has lost its digest")
    if digest is not None and json_digest(facts) != digest:
        raise ValueError(f"{STATE} is not what was written")
    return facts


def _site_file(folder: Path, site: str) -> Path:
    return folder / f"site-{site}.safetensors"


def _moved_aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def _encode(state: ServerState, seconds: Mapping[str, float]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The server's numbers, ready for JSON, and its tensors by name."""
    facts: dict[str, Any] = {"round": state.round, "accepted": state.accepted, "lost": state.lost}
    facts |= {"seconds": dict(seconds), "facts": state.json_state, "clock": state.clock}
    facts["flights"] = {site: _reply_facts(flight) for site, flight in state.in_flight.items()}
    tensors = {"weights": state.weights, "buffers": state.buffers}
    if state.previous is not None:
        tensors["previous"] = state.previous
    tensors |= {f"{METHOD}{name}": tensor for name, tensor in state.tensors.items()}
    for site, flight in state.in_flight.items():
        tensors |= {f"{FLIGHT}{site}.{part}": tensor for part, tensor in flight.reply.vectors().items()}
        # Sites dispatched in one round share the model they received, so it is stored once.
        tensors[f"{RECEIVED}{flight.reply.round}"] = flight.received.clone()
    if state.closing is not None:
        facts["closing"] = state.closing
    if state.stains is not None:
        facts["stains"] = state.stains.to_facts()
    if state.best is not None:
        facts["best"] = state.best[:2]
        tensors |= {"best_weights": state.best[2], "best_buffers": state.best[3]}
    return facts, tensors


def _decode(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ServerState:
    best = None
    if "best" in facts:
        round_, value = facts["best"]
        best = (int(round_), float(value), tensors["best_weights"], tensors["best_buffers"])
    return ServerState(
        round=facts["round"],
        weights=tensors["weights"],
        buffers=tensors["buffers"],
        previous=tensors.get("previous"),
        accepted=facts["accepted"],
        best=best,
        closing=facts.get("closing"),
        lost=facts["lost"],
        tensors=_under(METHOD, tensors),
        json_state=facts["facts"],
        clock=facts["clock"],
        in_flight={site: _in_flight(site, numbers, tensors) for site, numbers in facts["flights"].items()},
        stains=StainAgreement.of_facts(facts["stains"]) if "stains" in facts else None,
    )


def _reply_facts(flight: InFlightReply) -> dict[str, Any]:
    """The numbers of a reply on its way."""
    reply = flight.reply
    numbers = {"round": reply.round, "samples": reply.samples, "steps": reply.steps, "train_loss": reply.train_loss}
    return numbers | {"arrival": flight.arrival, "bytes_up": flight.bytes_up}


def _in_flight(site: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> InFlightReply:
    """A reply on its way, from its numbers and the tensors of a checkpoint."""
    parts, numbers = _under(f"{FLIGHT}{site}.", tensors), dict(facts)
    arrival, bytes_up = numbers.pop("arrival"), numbers.pop("bytes_up")
    reply = Reply(site, update=parts["update"].float(), buffers=parts["buffers"], extra=_under(EXTRA, parts), **numbers)
    return InFlightReply(reply, tensors[f"{RECEIVED}{reply.round}"], arrival, bytes_up)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
