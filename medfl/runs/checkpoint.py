"""The state after a whole round, on a disk: the server's, the replies on their way to it, and the sites' memories.

checkpoint/  state.json                numbers and names
             server.safetensors        the server's vectors; `link.<name>` those of methods, `flight.<site>.<part>` and
                                       `received.<round>` those of replies on their way
             site-<name>.safetensors   a site's memory, where it carries anything
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from medfl.data.atomic_file import flush, write_text
from medfl.errors import MedflError
from medfl.federation.server_state import InFlightReply, ServerState
from medfl.messages import Reply
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
    """

    state: ServerState
    memories: dict[str, SiteMemory]
    seconds: dict[str, float]


def save_checkpoint(
    path: Path, state: ServerState, memories: Iterable[SiteMemory], seconds: Mapping[str, float]
) -> None:
    """Replace the checkpoint in the folder `path` by the state after a whole round. Raises OSError, SafetensorError."""
    staged = path.with_name(f"{path.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    facts, tensors = _encode(state, seconds)
    for memory in memories:
        parts, numbers = memory.encode()
        if numbers["pending"] is not None:
            facts.setdefault("pending", {})[memory.site] = numbers["pending"]
        if parts:
            save_tensors(parts, _site_file(staged, memory.site))
    save_tensors(tensors, staged / SERVER)
    write_text(staged / STATE, json.dumps(facts))
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
    folders = [folder for folder in (path, _moved_aside(path)) if folder.exists()]
    for folder in folders:
        try:
            facts = json.loads((folder / STATE).read_text(encoding="utf-8"))
            tensors = read_tensors(folder / SERVER)
            files = {site: _site_file(folder, site) for site in sites}
            parts = {site: read_tensors(file) if file.exists() else {} for site, file in files.items()}
        except (OSError, ValueError, SafetensorError):
            continue
        pending = facts.get("pending", {})
        memories = {site: SiteMemory.decode(site, own, {"pending": pending.get(site)}) for site, own in parts.items()}
        return Checkpoint(_decode(facts, tensors), memories, facts["seconds"])
    if folders:
        raise MedflError(f"{path} is damaged; restore it, or begin a new run in another folder")
    return None


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
        lost=facts["lost"],
        tensors=_under(METHOD, tensors),
        json_state=facts["facts"],
        clock=facts["clock"],
        in_flight={site: _in_flight(site, numbers, tensors) for site, numbers in facts["flights"].items()},
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
    reply = Reply(site, update=parts["update"], buffers=parts["buffers"], extra=_under(EXTRA, parts), **numbers)
    return InFlightReply(reply, tensors[f"{RECEIVED}{reply.round}"], arrival, bytes_up)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
