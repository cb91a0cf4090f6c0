"""Starts a distributed run on this machine, tells how it goes, and leaves nothing running behind."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from medfl import config
from medfl.engines.nvflare.flare_app import HOME
from medfl.engines.nvflare.job import write_job
from medfl.engines.nvflare.preflight import server_kit
from medfl.engines.nvflare.run_layout import Laid, laid_before, lay_out, lay_out_kit, scratch
from medfl.engines.nvflare.session import RunningEngine
from medfl.engines.processes import Crew, stoppable
from medfl.engines.remote.audit_log import AuditLog
from medfl.engines.remote.party_files import whole_lines, write_run
from medfl.engines.remote.server_endpoint import ENDED, SAID
from medfl.errors import MedflError, RunFailed
from medfl.metrics.record_types import RunSummary
from medfl.pipeline.run import Outcome, follow
from medfl.runs.folder import RunFolder
from medfl.runs.progress import ProgressCallbacks

POLL = 0.2  # seconds
WAIT = 600.0  # seconds that a kit's server waits for its sites
LAST_WORDS = 15.0  # seconds in which a run that was stopped may still say how it ended

TRIES = 5  # times that a served run goes on by itself without a new round


class Interrupted(RunFailed):
    """The engine ended before the run did; every finished round is kept.

    Attributes:
        wanted: whether it was ended on purpose, for a site that came late.
    """

    def __init__(self, laid: Laid, reason: str, wanted: bool = False) -> None:
        super().__init__(f"{reason}; every finished round is kept. Continue with `medfl resume {laid.folder.path}`")
        self.reason = reason
        self.wanted = wanted


def run(
    pipeline: config.Pipeline,
    engine: str,
    out: Path | str | None,
    watcher: ProgressCallbacks,
    limit: float | None = None,
) -> Outcome:
    """Carry out a pipeline in a new run folder with every site in a process of its own.

    Args:
        engine: "simulator", or "poc" for a server and sites that know each other by certificates.
        limit: seconds after which the run is stopped, to be continued another time.

    Raises:
        MedflError, RunFailed: as `medfl.pipeline.run.run`; and a process that ended, by name.
    """
    for notice in pipeline.notices:
        watcher.say(notice)
    return _carry_out(lay_out(pipeline, engine, out), watcher, limit)


def serve(
    kit: Path,
    out: Path | str | None,
    wait: float,
    watcher: ProgressCallbacks,
    limit: float | None = None,
    tries: int = TRIES,
) -> Outcome:
    """Carry out a run from the server's kit, or go on with the one that `out` holds.

    FLARE ends a job when the process of a site ends. Then the sites are waited for, and the run goes on from its last
    whole round; also for a site that comes while the others are at work.

    Args:
        wait: seconds to wait for sites that are not connected; then the run begins without them.
        tries: so many times in a row, without a new round, before it is left to a person.

    Raises:
        MedflError, RunFailed: as `run`; a kit that is not the server's; a run of another kit.
    """
    server_kit(kit)
    if out is not None and RunFolder(out).engine.is_file():
        laid = laid_before(out, kit.resolve())
    else:
        laid = lay_out_kit(kit, out)
    return _carry_out(laid, watcher, limit, wait, tries)


def resume(path: Path | str, watcher: ProgressCallbacks) -> Outcome:
    """Continue a distributed run. Raises as `run`."""
    return _carry_out(laid_before(path), watcher, None)


def _carry_out(
    laid: Laid, watcher: ProgressCallbacks, limit: float | None, wait: float = WAIT, tries: int = 0
) -> Outcome:
    until = None if limit is None else time.monotonic() + limit

    def work(watching: ProgressCallbacks) -> RunSummary:
        left, begin = tries, _round(laid)
        while True:
            try:
                _attempt(laid, watching, wait, until)
                return laid.folder.read_summary()
            except Interrupted as end:
                before, begin = begin, _round(laid)
                left = tries if end.wanted or begin > before else left - 1
                if left < 0 or tries == 0:
                    raise
                watching.say(f"{end.reason}; going on by itself, {left} more times without a new round")
                AuditLog(laid.server).write("goes on", run=laid.run, round=begin, reason=end.reason, left=left)

    with laid.folder:
        return follow(laid.folder, laid.pipeline, watcher, work)


def _attempt(laid: Laid, watcher: ProgressCallbacks, wait: float, until: float | None) -> None:
    """Carry the run out from its last whole round. Raises as `run`; Interrupted where the engine ends before."""
    # The crew comes first: what an earlier part left running, if it was killed outright, must not write any more.
    with stoppable(), Crew(laid.run, laid.pipeline.training.threads) as crew:
        begin = _round(laid)
        laid.folder.truncate(begin)
        for name in (ENDED, SAID):
            (laid.server / name).unlink(missing_ok=True)
        if begin:
            watcher.say(f"{laid.folder.path}: going on at round {begin} of {laid.pipeline.training.rounds}")
        write_run(laid.server, laid.run, laid.folder.path)
        with _engine(laid, crew, watcher, wait) as engine:
            _watch(laid, watcher, begin, engine, until)


def _round(laid: Laid) -> int:
    """The first round that is not in the run's checkpoint."""
    loaded = laid.folder.load_checkpoint({})
    return loaded[0].round if loaded else 0


def _engine(laid: Laid, crew: Crew, watcher: ProgressCallbacks, wait: float) -> AbstractContextManager[RunningEngine]:
    """The processes of the engine."""
    if laid.engine == "kit":
        from medfl.engines.nvflare.run_kit import kit_server

        return kit_server(laid, crew, watcher, wait)
    if laid.engine == "poc":
        from medfl.engines.nvflare.poc import poc

        return poc(laid, crew, watcher)
    return _simulator(laid, crew)


@contextmanager
def _simulator(laid: Laid, crew: Crew) -> Iterator[RunningEngine]:
    with scratch(laid) as folder:
        job = write_job(folder, laid.run, laid.timeout, len(laid.sites))
        module = ["-m", "medfl.engines.nvflare.simulator", str(folder / "workspace"), str(job), ",".join(laid.sites)]
        log = laid.home / "simulator.log"
        crew.start("simulator", [sys.executable, *module], log, {HOME: str(laid.home)})
        try:
            yield RunningEngine(lambda: f"the simulator has ended; see {log}" if crew.ended() else None)
        finally:
            crew.end()  # before its workspace goes


def _watch(laid: Laid, watcher: ProgressCallbacks, begin: int, engine: RunningEngine, until: float | None) -> None:
    """Tell what the server writes until it has ended.

    Raises:
        MedflError, RunFailed: what the server raised. Interrupted: the engine is gone, or is to be started again.
    """
    said = records = 0
    newcomer: str | None = None
    size = -1
    deadline: float | None = None
    reason: str | None = None
    while True:
        end = _ended(laid)  # looked for first, so that all that was written before it is told
        lines = whole_lines(laid.server / SAID)
        for line in lines[said:]:
            watcher.say(line)
        said = len(lines)
        if size != (size := laid.folder.rounds.stat().st_size if laid.folder.rounds.exists() else -1):
            rounds = [record for record in laid.folder.records() if record["round"] >= begin]
            for record in rounds[records:]:
                watcher.round(record, laid.pipeline.training.rounds)
            if newcomer is not None and len(rounds) > records and _round(laid) < laid.pipeline.training.rounds:
                raise Interrupted(laid, newcomer, wanted=True)
            records = len(rounds)
        if end is not None:
            break
        newcomer = newcomer or engine.newcomer()
        if deadline is None and (reason := engine.lost()) is not None:
            deadline = time.monotonic() + LAST_WORDS
        if until is not None and time.monotonic() > until:
            raise RunFailed(str(Interrupted(laid, "the run took longer than --timeout allows")))
        if deadline is not None and time.monotonic() > deadline:
            raise Interrupted(laid, str(reason))
        time.sleep(POLL)
    if end["done"]:
        return
    if end["kind"] == "Stopped":
        raise Interrupted(laid, end["message"])
    raise (MedflError if end["kind"] == "MedflError" else RunFailed)(end["message"])


def _ended(laid: Laid) -> dict[str, Any] | None:
    try:
        end: dict[str, Any] = json.loads((laid.server / ENDED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return end
