"""A kit's process, and a session with a server: what `deploy` commands do with FLARE on one machine."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from medfl.engines.nvflare.provision import LEAD, ORG
from medfl.engines.remote.server_endpoint import STOPPED
from medfl.errors import MedflError
from medfl.plain_text import visible

WAITING = ("SUBMITTED", "APPROVED", "DISPATCHED")
CHECK, BEGIN = 1.0, 300.0  # seconds between looks at a job, and until it must run
STEP = 0.5  # seconds
LOGIN, COMMAND = 20.0, 60.0  # seconds
T = TypeVar("T")


def command(kit: Path, name: str) -> list[str]:
    """What starts the process of a kit; `name` is "server" or a site's."""
    kind = "server" if name == "server" else "client"
    settings = ["secure_train=true", f"org={ORG}", "config_folder=config"]
    settings += [f"uid={name}"] if kind == "client" else []
    module = f"nvflare.private.fed.app.{kind}.{kind}_train"
    return [sys.executable, "-u", "-m", module, "-m", str(kit), "-s", f"fed_{kind}.json", "--set", *settings]


def free_port(wanted: int = 8002) -> int:
    """The wanted port if nobody listens there, else one that is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise MedflError("there is no free port on this machine")


@dataclass(frozen=True)
class RunningEngine:
    """Processes that carry out a run.

    Attributes:
        lost: says why the run cannot come to an end any more, or None.
        newcomer: says who has come that does not take part yet, or None.
    """

    lost: Callable[[], str | None]
    newcomer: Callable[[], str | None] = lambda: None


class _Ours(logging.Filter):
    """Lets medfl's own words through, as one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = visible(record.getMessage()), None
        return record.name.split(".")[0] == "medfl"


@contextlib.contextmanager
def _without_flares_words() -> Iterator[None]:
    """Keep what FLARE's client logs off the terminal; where a call fails, its exception says so."""
    ours = logging.StreamHandler()
    ours.addFilter(_Ours())
    logging.getLogger().addHandler(ours)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(ours)


@contextlib.contextmanager
def session(kit: Path, until: float, gone: Callable[[], str | None] = lambda: None) -> Iterator[Any]:
    """A silent session of the lead with the server, retried until `time.monotonic()` is `until`.

    Args:
        gone: says why there is no use in waiting, or None.

    Raises:
        MedflError: no server, or one that does not know this kit.
    """
    with _without_flares_words():
        opened = _login(kit, until, gone)
        try:
            yield opened
        finally:
            with contextlib.suppress(Exception):
                within(STEP, opened.close)


def _login(kit: Path, until: float, gone: Callable[[], str | None]) -> Any:
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    opened = None
    while opened is None:
        try:
            opened = within(LOGIN, lambda: new_secure_session(LEAD, str(kit), timeout=5.0, auto_login_max_tries=1))
        except Exception as error:
            if (why := gone()) is not None:
                raise MedflError(why) from None
            if time.monotonic() > until:
                raise MedflError(
                    f"the server does not answer the kit {kit} ({type(error).__name__}); is it running, is its name "
                    f"and port reachable from here, and is this kit of the same making?"
                ) from None
            time.sleep(STEP)
    return opened


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns, silent meanwhile; FLARE's session may wait for ever where a server has gone.

    Raises:
        TimeoutError: it takes longer.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    with contextlib.redirect_stdout(io.StringIO()):
        threading.Thread(target=run, daemon=True, name="medfl-session").start()
        return done.result(timeout=seconds)


def connected(opened: Any) -> set[str]:
    """Names of the sites that are connected to the server."""
    return {client.name for client in within(COMMAND, opened.get_system_info).client_info}


def wait_for_sites(
    opened: Any,
    sites: Sequence[str],
    until: float,
    gone: Callable[[], str | None],
    tell: Callable[[str], None] = lambda site: None,
) -> set[str]:
    """Wait until all sites are connected, or `time.monotonic()` is `until`; returns those that are.

    Args:
        tell: is told the name of each site that comes.

    Raises:
        MedflError: `gone` says that it is no use.
    """
    here: set[str] = set()
    while True:
        before, here = here, connected(opened) & set(sites)
        for name in sorted(here - before):
            tell(name)
        if len(here) == len(sites) or time.monotonic() > until:
            return here
        if (why := gone()) is not None:
            raise MedflError(why)
        time.sleep(STEP)


class Job:
    """A job handed over to the server; called, it says why it cannot come to an end any more, or None.

    Args:
        opened: the session.
        folder: the job's folder.
        gone: says why a process of this machine is missed, or None.

    Raises:
        MedflError: the server does not take the job.
    """

    def __init__(self, opened: Any, folder: Path, gone: Callable[[], str | None]) -> None:
        self.opened = opened
        self.gone = gone
        try:
            self.name = str(within(COMMAND, lambda: opened.submit_job(str(folder))))
        except Exception as error:
            raise MedflError(f"the server did not take the job ({type(error).__name__}: {error})") from None
        self.begun = self.looked = time.monotonic()

    def __call__(self) -> str | None:
        """Looks at most every `CHECK` seconds."""
        now = time.monotonic()
        if now - self.looked < CHECK:
            return None
        self.looked = now
        if (why := self.gone()) is not None:
            return why
        try:
            status = str(within(COMMAND, lambda: self.opened.get_job_meta(self.name)).get("status"))
        except Exception as error:
            return f"the server does not answer any more ({type(error).__name__})"
        if status == "RUNNING":
            return None
        if status not in WAITING:
            return f"{STOPPED} ({status})"
        return f"the job did not start within {BEGIN:g} s ({status})" if now - self.begun > BEGIN else None
