"""The server's end of the line: greets the sites, plays the run into its folder, and says how it ended."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from medfl.data.atomic_file import append_text, write_text
from medfl.data.bag_store import UNSTATED, FeatureOrigin, check_origins, common_origin
from medfl.engines.remote.admission import Admission
from medfl.engines.remote.audit_log import AuditLog, asked
from medfl.engines.remote.codec import Bounds
from medfl.engines.remote.greeting import AllocationRow, BadGreeting, Installation, SiteGreeting
from medfl.engines.remote.party_files import read_server
from medfl.engines.remote.remote_transport import Ask, NoAnswer, Remote, Stopped
from medfl.engines.remote.site_endpoint import LOG
from medfl.engines.remote.site_policy import pipeline_digest
from medfl.errors import MedflError
from medfl.federation.transport import Transport
from medfl.messages import Failure, Reply, Request
from medfl.pipeline.build_federation import federation_config
from medfl.pipeline.build_site import checked_shared_model
from medfl.pipeline.plan_checks import check_plan
from medfl.pipeline.prepare import RunSetup
from medfl.pipeline.run import play
from medfl.plain_text import visible
from medfl.runs.data_record import changed_sites, read_rows, write_rows
from medfl.runs.folder import RunFolder
from medfl.runs.progress import ProgressCallbacks

ENDED, SAID = "ended.json", "said.txt"
STOPPED = "the run was stopped in the middle of a round: the process of a party ended"


@dataclass(kw_only=True)
class RemoteRunSetup(RunSetup):
    """What the server knows of sites that are elsewhere."""

    remote: Remote

    @property
    def line(self) -> Transport:
        """The line to the sites."""
        return self.remote


@dataclass(frozen=True)
class Handshake:
    """What the sites said of themselves."""

    present: frozenset[str]
    groups_unknown: bool
    rows: list[AllocationRow]
    origin: FeatureOrigin = UNSTATED


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
        said, audit = folder / SAID, AuditLog(folder)

        def say(text: str) -> None:
            append_text(said, visible(text) + "\n")

        bench = checked_shared_model(pipeline)
        bench.model.rest_on_disk()
        bounds = Bounds.of(bench.model)
        roles = {site.name: site.role or "train" for site in pipeline.all_sites}
        prints = (bench.model.fingerprint(), bench.model.frozen_digest())
        digest = pipeline_digest(folder)
        audit.write("begun", run=facts["run"], pipeline=digest, sites=sorted(present))
        greeting = handshake_sites(roles, present, Admission(folder, hello, audit), *prints, pipeline.task.classes, say)
        head = RemoteRunSetup(
            pipeline=pipeline,
            shared=bench,
            config=federation_config(pipeline, bench.model),
            groups_unknown=greeting.groups_unknown,
            origin=greeting.origin,
            remote=Remote(greeting.present, ask, bounds, partial(_note, audit, facts["run"])),
            seconds=time.perf_counter() - began,
        )
        same_data(runs, greeting.rows)
        loaded = runs.load_checkpoint({})
        if not loaded:
            check_plan(pipeline, greeting.rows)
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
        append_text(folder / LOG, visible("".join(traceback.format_exception(error)), lines=True))
        end = {"done": False, "kind": "", "message": f"{type(error).__name__} at the server; see {folder / LOG}"}
    write_text(folder / ENDED, json.dumps(end) + "\n")


def _note(
    audit: AuditLog, run: str, site: str, request: Request, bytes_out: int, bytes_in: int, answer: Reply | Failure
) -> None:
    """An entry on a site's answer: as the site's own log has it, with what came and went the other way round."""
    facts = {**asked(request, run, bytes_in), "site": site, "bytes_out": bytes_out}
    if isinstance(answer, Failure):
        audit.write("failed", **facts, reason=answer.reason)
    else:
        audit.write("received", **facts)


def handshake_sites(
    roles: Mapping[str, str],
    present: Collection[str],
    hello: Ask,
    fingerprint: str,
    frozen: str,
    classes: Collection[str],
    say: Callable[[str], None],
) -> Handshake:
    """Ask every connected site who it is, in parallel. A site that cannot be understood is told, and left out.

    Raises:
        MedflError: a site that is not in the pipeline, of another version, role or model, or whose clock is off.
    """
    strangers = sorted(set(present) - roles.keys())
    if strangers:
        raise MedflError(f"{', '.join(strangers)} is connected but not in the pipeline; stop it, or add its site file")
    names = sorted(present)
    mine = Installation.here().encode()

    def ask(name: str) -> SiteGreeting | str | MedflError:
        try:
            return SiteGreeting.decode(hello(name, mine), name, classes)
        except NoAnswer as error:
            return str(error)
        except BadGreeting as error:
            return f"what it says of itself cannot be read: {error}"
        except MedflError as error:
            return error

    with ThreadPoolExecutor(max(1, len(names))) as pool:
        answers = dict(zip(names, pool.map(ask, names), strict=True))
    ready: dict[str, SiteGreeting] = {}
    for name, answer in answers.items():
        if isinstance(answer, MedflError):
            raise answer
        if isinstance(answer, str):
            say(f"Site {name} is not ready: {answer}")
            continue
        _agree(answer, roles[name], fingerprint, frozen)
        ready[name] = answer
    for name in sorted(roles.keys() - set(names)):
        say(f"Site {name} is not connected")
    if not any(roles[name] == "train" for name in ready):
        raise MedflError("no training site is ready; see what each said above, and each site's own medfl.log")
    compare_groups({name: greeting.groups for name, greeting in ready.items()}, say)
    origins = {name: ready[name].origin for name in roles if name in ready}
    for warning in check_origins(origins):
        say(f"WARNING: {warning}")
    rows = [row for name in roles if name in ready for row in ready[name].allocation]
    leaky = any(greeting.leaky for greeting in ready.values())
    return Handshake(frozenset(ready), leaky, rows, common_origin(origins.values()))


def compare_groups(keyed: Mapping[str, Mapping[str, Sequence[str]]], say: Callable[[str], None]) -> None:
    """Compare the source groups of sites by their keyed hashes.

    Raises:
        MedflError: two sites hold a group whose name means the same everywhere, or one slide. Where names are the
            sites' own, equal ones are told only, since "patient-1" may be another patient elsewhere.
    """
    for one, two in combinations(sorted(keyed), 2):
        for scope, what in {"published": "source groups", "slides": "slides", "own": "source groups"}.items():
            count = len(set(keyed[one].get(scope, ())) & set(keyed[two].get(scope, ())))
            if count and scope != "own":
                raise MedflError(f"{count} {what} are at site {one} and at site {two}; remove them from one")
            if count:
                say(
                    f"{count} source groups have the same names at {one} and {two}: if those names mean the same "
                    f"patients, training and test data overlap; each of the two can remove them"
                )


def same_data(folder: RunFolder, rows: Sequence[AllocationRow]) -> None:
    """Note what the sites hold, or compare it with what they held when the run began.

    Raises:
        MedflError: a site's data have changed.
    """
    if not folder.allocation_summary.is_file():
        write_rows(folder.allocation_summary, rows)
        return
    noted = read_rows(folder.allocation_summary)
    if sites := changed_sites(noted, rows):
        raise MedflError(f"the data of site {', '.join(sites)} have changed since the run began; restore them there")
    if late := [row for row in rows if row["site"] not in {row["site"] for row in noted}]:
        write_rows(folder.allocation_summary, [*noted, *late])


def _agree(site: SiteGreeting, role: str, fingerprint: str, frozen: str) -> None:
    """Raise MedflError unless a site is what the pipeline says, with the same software and the same time."""
    name, here = site.site, Installation.here()
    for package, mine, theirs in here.other_versions(site.installation):
        raise MedflError(f"site {name} has {package} {theirs}, the server {mine}; install the same at both")
    if other := {site.role, *(row["role"] for row in site.allocation)} - {role}:
        raise MedflError(f"site {name} says it is {other.pop()}, the pipeline {role}; renew its kit")
    if site.frozen != frozen:
        raise MedflError(
            f"site {name} has other frozen weights than the server ({site.frozen[:12] or 'none'}, not "
            f"{frozen[:12] or 'none'}); give it the file of weights that the server has, under `model.weights` of its "
            f"pipeline.yaml"
        )
    if site.fingerprint != fingerprint:
        raise MedflError(f"site {name} builds another model than the server; renew its kit from this pipeline")
    if skew := here.skew(site.installation):
        raise MedflError(f"the clock of site {name} is {abs(skew):.0f} s off the server's; set both by a time server")
