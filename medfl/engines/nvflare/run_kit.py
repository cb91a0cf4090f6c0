"""A kit at work on its own machine: the server's waits for sites and starts the job, a site's takes part."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medfl import config
from medfl.data.render import render, warn_of_resolution
from medfl.engines.nvflare.job import write_job
from medfl.engines.nvflare.preflight import address, reach, site_name
from medfl.engines.nvflare.provision import place_server
from medfl.engines.nvflare.run_layout import Laid, scratch
from medfl.engines.nvflare.session import Job, RunningEngine, command, connected, free_port, session, wait_for_sites
from medfl.engines.processes import Crew, kit_mark, stoppable
from medfl.engines.remote.admission import REVOKED
from medfl.engines.remote.party_files import PARTY, read_site, whole_lines
from medfl.engines.remote.site_endpoint import LOG
from medfl.engines.remote.site_policy import (
    POLICY,
    NotApproved,
    NotPermitted,
    approve,
    check_permitted,
    how_to_approve,
    in_words,
)
from medfl.errors import MedflError
from medfl.runs.progress import ProgressCallbacks

FLARE_LOG = "flare.log"
JOINED = "Successfully registered client"
TWICE = re.compile(r"Failed to re-activate the client: ?([^\s:]+): already registered")
START = 60.0  # seconds in which the server's own process must be up
RETRY = 5.0  # seconds between attempts to reach the server
NOTE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?!Traceback)(.+)$", re.MULTILINE)
LOOK = 10.0  # seconds between looks for sites that come late
AGAIN = 10.0  # seconds before a site's process that ended is started again


@contextmanager
def kit_server(laid: Laid, crew: Crew, watcher: ProgressCallbacks, wait: float) -> Iterator[RunningEngine]:
    """The server of a kit and the job, with the sites that have come within `wait` seconds, or as soon as all have.

    Raises:
        MedflError: the port is taken, the server does not come up, or no training site comes.
    """
    assert laid.kit is not None
    kit, log = laid.kit, laid.kit / PARTY / FLARE_LOG
    port = address(kit)[1]
    if free_port(port) != port:
        raise MedflError(f"port {port} is in use on this machine; end the server that runs here, or its last run")
    place_server(kit)
    crew.start("server", command(kit, "server"), log)

    heard = TwiceHeard(log, laid.sites, watcher.say)

    def gone() -> str | None:
        heard.look()
        return f"the server's process has ended; see {log}" if crew.ended() else None

    began = time.monotonic()
    with scratch(laid) as folder, session(kit / "lead", began + START, gone) as opened:
        watcher.say(f"The server listens on port {port}; waiting up to {wait:g} s for {', '.join(laid.sites)}")
        here = wait_for_sites(
            opened, laid.sites, began + wait, gone, lambda name: watcher.say(f"Site {name} is connected")
        )
        if not here:
            raise MedflError(f"no site has come within {wait:g} s; wait longer with --wait, or see what they say")
        job = Job(opened, write_job(folder, laid.run, laid.timeout, len(here)), gone)
        newcomers = Newcomers(lambda: connected(opened), set(laid.sites) - here)
        revoked = Changed(kit / PARTY / REVOKED, "the list of revoked kits has changed, so sites are asked again")
        yield RunningEngine(job, lambda: newcomers() or revoked())


class Newcomers:
    """Says which sites have come that the job began without.

    Args:
        connected: asks the server who is connected.
        missing: those that were not when the job began.
    """

    def __init__(self, connected: Callable[[], Collection[str]], missing: Collection[str]) -> None:
        self.connected, self.missing = connected, frozenset(missing)
        self.looked = time.monotonic()

    def __call__(self) -> str | None:
        """Looks at most every `LOOK` seconds."""
        if not self.missing or time.monotonic() - self.looked < LOOK:
            return None
        self.looked = time.monotonic()
        try:
            come = sorted(self.missing & set(self.connected()))
        except Exception:  # a server that does not answer is the job's to notice
            return None
        return f"{', '.join(come)} has come, and takes part from the next round" if come else None


class Changed:
    """Says so where a file is no longer what it was.

    Args:
        file: it need not be there.
        words: what is then said.
    """

    def __init__(self, file: Path, words: str) -> None:
        self.file, self.words = file, words
        self.before = self._content()

    def __call__(self) -> str | None:
        """Reads the file, which is small."""
        return self.words if self._content() != self.before else None

    def _content(self) -> bytes:
        return self.file.read_bytes() if self.file.is_file() else b""


class TwiceHeard:
    """Tells of a site under whose name two processes are connected: its kit may have been copied.

    FLARE lets the later of two take over, and goes on refusing what the earlier one sends; that it writes into its log.

    Args:
        log: what the server's process prints.
        sites: names of the sites.
        say: is told, once a site.
    """

    def __init__(self, log: Path, sites: Collection[str], say: Callable[[str], None]) -> None:
        self.log, self.sites, self.say = log, frozenset(sites), say
        self.known: set[str] = set()
        self._read = log.stat().st_size if log.exists() else 0

    def look(self) -> None:
        """Read what has been printed since."""
        text = _since(self.log, self._read)
        whole = text[: text.rfind("\n") + 1]
        self._read += len(whole.encode("utf-8", "surrogateescape"))
        for name in sorted((set(TWICE.findall(whole)) & self.sites) - self.known):
            self.known.add(name)
            self.say(
                f"ALARM: two processes answer as {name}. If {name} has not started its kit twice, the kit was copied: "
                f"stop this run, and make new kits with a new authority"
            )


def join(kit: Path, watcher: ProgressCallbacks, limit: float | None, approved: str | None = None) -> None:
    """Take part with a site's kit until stopped, or for `limit` seconds.

    Args:
        approved: the digest, or its beginning, of the pipeline that a person here has read and approves.

    Raises:
        NotPermitted: nobody has approved the kit's pipeline, or the site's policy forbids it.
        MedflError: what is wrong with the kit, the clock, the data, or the way to the server.
    """
    kit = kit.resolve()
    until = None if limit is None else time.monotonic() + limit
    name = site_name(kit)
    pipeline, site, share = read_site(kit / PARTY, name)
    permitted(kit, pipeline, name, approved, watcher.say)
    watcher.say(f"{name}: preparing {len(share.rows)} patches, once")
    try:
        warn_of_resolution(pipeline, [site])
        render(pipeline, site, share)
    except MedflError as error:
        raise MedflError(f"{kit / PARTY / 'site.yaml'}: {error}") from None
    warned = False
    while not reach(kit):
        if not warned:
            watcher.say("Nothing answers at {}:{} yet; trying again until something does".format(*address(kit)))
            warned = True
        if not _pause(RETRY, until):
            return
    log, notes = kit / PARTY / FLARE_LOG, kit / PARTY / LOG
    count = len(whole_lines(notes))
    with stoppable(), Crew(kit_mark(kit), pipeline.training.threads) as crew:
        while True:
            begin = log.stat().st_size if log.exists() else 0
            crew.start(name, command(kit, name), log)
            joined = False
            while not crew.ended():
                if not joined and JOINED in _since(log, begin):
                    joined = True
                    watcher.say(
                        f"{name} is connected; what goes wrong is in {kit / PARTY / LOG}; Ctrl-C ends taking part"
                    )
                noted = whole_lines(notes)
                for said in NOTE.findall("\n".join(noted[count:])):
                    watcher.say(f"{name}: {said}")
                count = len(noted)
                if not _pause(0.5, until):
                    return
            watcher.say(f"The process of {name} has ended; starting it again (its words are in {log})")
            if not _pause(AGAIN, until):
                return


def permitted(
    kit: Path, pipeline: config.Pipeline, site: str, approved: str | None, say: Callable[[str], None]
) -> None:
    """Approve a kit's pipeline where its digest is named, and say what it would do where nobody has.

    Raises:
        MedflError: another digest is named. NotPermitted: it may not run here.
    """
    party = kit / PARTY
    if approved is not None:
        approve(party, approved)
    try:
        check_permitted(party, pipeline, site)
    except NotApproved as error:
        for line in in_words(party, pipeline, site):
            say(line)
        raise NotApproved(f"{error}; {how_to_approve(kit)}") from None
    except NotPermitted as error:
        raise NotPermitted(f"{error}; change {party / POLICY}, or ask the consortium for another pipeline") from None


def _pause(seconds: float, until: float | None) -> bool:
    """Sleep; False if the time is over."""
    time.sleep(seconds)
    return until is None or time.monotonic() < until


def _since(log: Path, begin: int) -> str:
    with suppress(FileNotFoundError), log.open("rb") as stream:
        stream.seek(begin)
        return stream.read().decode("utf-8", "surrogateescape")
    return ""
