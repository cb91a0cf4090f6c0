"""The server's end of the line: greets the sites, plays the run into its folder, and says how it ended."""

from __future__ import annotations

import csv
import json
import math
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from medfl.data.atomic_file import write_text
from medfl.engines.remote.codec import PROTOCOL, Bounds
from medfl.engines.remote.party_files import read_server
from medfl.engines.remote.remote_transport import Ask, NoAnswer, Remote, Stopped
from medfl.engines.remote.site_endpoint import LOG, MAX_SKEW, MUST_AGREE, shown
from medfl.errors import MedflError
from medfl.federation.transport import Transport
from medfl.pipeline.build_federation import federation_config
from medfl.pipeline.build_site import checked_shared_model
from medfl.pipeline.prepare import RunSetup
from medfl.pipeline.run import play, write_summary_csv
from medfl.runs.folder import RunFolder
from medfl.runs.progress import ProgressCallbacks
from medfl.runs.versions import versions

ENDED, SAID = "ended.json", "said.txt"
STOPPED = "the run was stopped in the middle of a round: the process of a party ended"
HELLO_LIMIT = 64_000_000  # bytes; 20 a source group
SUMMARY = {"site": str, "role": str, "split": str, "class": str, "groups": int, "patches": int, "digest": str}


@dataclass(kw_only=True)
class RemoteRunSetup(RunSetup):
    """What the server knows of sites that are elsewhere."""

    remote: Remote

    @cached_property
    def transport(self) -> Transport:
        """The line to the sites."""
        return self.remote


@dataclass(frozen=True)
class Handshake:
    """What the sites said of themselves."""

    present: frozenset[str]
    groups_unknown: bool
    rows: list[dict[str, str | int]]


def serve(folder: Path, present: Collection[str], hello: Ask, ask: Ask) -> None:
    """Carry out the run that the server's party folder states, with the sites that are connected.

    Never raises for what goes wrong in the run: how it ended is in `ended.json`, for whoever started it.

    Args:
        folder: the server's party folder.
        present: names of the connected sites.
        hello: asks a site who it is, telling it this server's versions and clock. Raises NoAnswer or Stopped.
        ask: carries a request to a site and its answer back. Raises NoAnswer or Stopped.
    """
    began = time.perf_counter()
    try:
        pipeline, facts = read_server(folder)
        runs = RunFolder(facts["folder"])
        said = folder / SAID

        def say(text: str) -> None:
            with said.open("a", encoding="utf-8") as stream:
                stream.write(text.replace("\n", " ") + "\n")

        bench = checked_shared_model(pipeline)
        bounds = Bounds.of(bench.model)
        known = {site.name: site.role or "train" for site in pipeline.all_sites}
        prints = (bench.model.fingerprint(), bench.model.frozen_digest())
        greeting = handshake_sites(known, present, hello, *prints, pipeline.task.classes, say)
        head = RemoteRunSetup(
            pipeline=pipeline,
            shared=bench,
            config=federation_config(pipeline, bench.model),
            groups_unknown=greeting.groups_unknown,
            remote=Remote(greeting.present, ask, bounds),
            seconds=time.perf_counter() - began,
        )
        same_data(runs, greeting.rows)
        loaded = runs.load_checkpoint({})
        state, spent = loaded if loaded else (head.initial_state(), {})
        state.lost = 0
        runs.truncate(state.round)
        play(head, runs, state, spent, began, ProgressCallbacks(say))
        end: dict[str, Any] = {"done": True}
    except Stopped:
        end = {"done": False, "kind": "Stopped", "message": STOPPED}
    except MedflError as error:
        end = {"done": False, "kind": type(error).__name__, "message": str(error)}
    except Exception as error:
        with (folder / LOG).open("a", encoding="utf-8") as stream:
            stream.write("".join(traceback.format_exception(error)))
        end = {"done": False, "kind": "", "message": f"{type(error).__name__} at the server; see {folder / LOG}"}
    write_text(folder / ENDED, json.dumps(end) + "\n")


def handshake_sites(
    known: Mapping[str, str],
    present: Collection[str],
    hello: Ask,
    fingerprint: str,
    frozen: str,
    classes: Collection[str],
    say: Callable[[str], None],
) -> Handshake:
    """Ask every connected site who it is, in parallel.

    Raises:
        MedflError: a site that is not in the pipeline, of another version, role or model, or whose clock is off.
    """
    strangers = sorted(set(present) - known.keys())
    if strangers:
        raise MedflError(f"{', '.join(strangers)} is connected but not in the pipeline; stop it, or add its site file")
    names = sorted(present)
    mine = json.dumps({"versions": versions(), "time": time.time()}).encode()

    def ask(name: str) -> bytes | str:
        try:
            return hello(name, mine)
        except NoAnswer as error:
            return str(error)

    with ThreadPoolExecutor(max(1, len(names))) as pool:
        answers = dict(zip(names, pool.map(ask, names), strict=True))
    ready: dict[str, dict[str, Any]] = {}
    for name, answer in answers.items():
        facts = {"problem": answer} if isinstance(answer, str) else _facts(name, answer)
        if "problem" in facts:
            say(f"Site {name} is not ready: {facts['problem']}")
            continue
        _agree(name, known[name], facts, fingerprint, frozen, classes)
        ready[name] = facts
    for name in sorted(known.keys() - set(names)):
        say(f"Site {name} is not connected")
    if not any(known[name] == "train" for name in ready):
        raise MedflError("no training site is ready; see what each said above, and each site's own medfl.log")
    compare_groups({name: facts["groups"] for name, facts in ready.items()}, say)
    rows = [row for name in known if name in ready for row in ready[name]["allocation"]]
    return Handshake(frozenset(ready), any(facts["leaky"] for facts in ready.values()), rows)


def compare_groups(keyed: Mapping[str, Mapping[str, Sequence[str]]], say: Callable[[str], None]) -> None:
    """Compare the source groups of sites by their keyed hashes.

    Raises:
        MedflError: two sites hold a group whose name means the same everywhere. Where names are the sites' own, equal
            ones are told only, since "patient-1" may be another patient elsewhere.
    """
    for one, two in combinations(sorted(keyed), 2):
        for scope in ("published", "own"):
            count = len(set(keyed[one].get(scope, ())) & set(keyed[two].get(scope, ())))
            if count and scope == "published":
                raise MedflError(f"{count} source groups are at site {one} and at site {two}; remove them from one")
            if count:
                say(
                    f"{count} source groups have the same names at {one} and {two}: if those names mean the same "
                    f"patients, training and test data overlap; each of the two can remove them"
                )


def same_data(folder: RunFolder, rows: list[dict[str, str | int]]) -> None:
    """Note what the sites hold, or compare it with what they held when the run began.

    Raises:
        MedflError: a site's data have changed.
    """
    if not folder.allocation_summary.is_file():
        write_summary_csv(folder.allocation_summary, rows)
        return
    with folder.allocation_summary.open(newline="", encoding="utf-8") as stream:
        noted: list[Mapping[str, str | int]] = list(csv.DictReader(stream))
    before = {(row["site"], row["split"], row["class"]): row["digest"] for row in noted}
    for row in rows:
        if before.get((row["site"], row["split"], row["class"]), row["digest"]) != row["digest"]:
            raise MedflError(f"the data of site {row['site']} have changed since the run began; restore them there")
    sites = {row["site"] for row in noted}
    if late := [row for row in rows if row["site"] not in sites]:
        write_summary_csv(folder.allocation_summary, [*noted, *late])


def _facts(name: str, answer: bytes) -> dict[str, Any]:
    """What a site said of itself, each part of the right type. Raises MedflError."""
    try:
        if not isinstance(answer, bytes) or len(answer) > HELLO_LIMIT:
            raise ValueError
        facts = json.loads(answer)
        if facts.get("protocol") != PROTOCOL or facts["site"] != name:
            raise ValueError
        if "problem" in facts:
            return {"problem": shown(facts["problem"], 300)}
        rows = facts["allocation"]
        fits = all(set(row) == set(SUMMARY) and all(type(row[k]) is t for k, t in SUMMARY.items()) for row in rows)
        own = all(row["site"] == name and len(row["digest"]) <= 16 for row in rows)
        typed = (
            isinstance(facts["leaky"], bool) and math.isfinite(facts["time"]) and isinstance(facts["versions"], dict)
        )
        if not (fits and own and typed):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MedflError(f"site {name} speaks another protocol; install the same version of medfl there") from None
    return dict(facts)


def _agree(
    name: str, role: str, facts: Mapping[str, Any], fingerprint: str, frozen: str, classes: Collection[str]
) -> None:
    """Raise MedflError unless a site is what the pipeline says, with the same software and the same time."""
    here = versions()
    for package in MUST_AGREE:
        there = shown(facts["versions"].get(package, "none"), 32)
        if there != here[package]:
            raise MedflError(f"site {name} has {package} {there}, the server {here[package]}; install the same at both")
    if facts["role"] != role:
        raise MedflError(f"site {name} says it is {shown(facts['role'], 16)}, the pipeline {role}; renew its kit")
    theirs = shown(facts.get("frozen", ""), 64)
    if theirs != frozen:
        raise MedflError(
            f"site {name} has other frozen weights than the server ({theirs[:12]}, not {frozen[:12]}); give it "
            f"the file of weights that the server has, under `model.weights` of its pipeline.yaml"
        )
    if facts["fingerprint"] != fingerprint:
        raise MedflError(f"site {name} builds another model than the server; renew its kit from this pipeline")
    if any(row["class"] not in classes for row in facts["allocation"]):
        raise MedflError(f"site {name} has other classes than the pipeline; renew its kit from this pipeline")
    skew = abs(float(facts["time"]) - time.time())
    if skew > MAX_SKEW:
        raise MedflError(f"the clock of site {name} is {skew:.0f} s off the server's; set both by a time server")
