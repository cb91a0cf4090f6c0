"""The whole federation on this machine over mutual TLS: server and sites as they would be, each with its own kit."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from medfl.data.atomic_file import replacing, write_text
from medfl.engines.nvflare.flare_app import HOME
from medfl.engines.nvflare.job import write_job
from medfl.engines.nvflare.provision import place_server, provision
from medfl.engines.nvflare.run_layout import Laid, scratch
from medfl.engines.nvflare.session import Job, RunningEngine, command, free_port, session, wait_for_sites
from medfl.engines.processes import Crew
from medfl.errors import MedflError
from medfl.runs.progress import ProgressCallbacks

START = 180.0  # seconds in which server and sites must be up


@contextmanager
def poc(laid: Laid, crew: Crew, watcher: ProgressCallbacks) -> Iterator[RunningEngine]:
    """Kits, processes and the job.

    Raises:
        MedflError: a process that does not come up.
    """
    with scratch(laid) as folder:
        kits = folder / "kits"
        port = free_port()
        write_text(laid.home / "port", f"{port}\n")
        provision(kits, "medfl", laid.sites, "localhost", port)
        place_server(kits / "server")
        watcher.say(
            f"A server on port {port} and {len(laid.sites)} sites, each in a process of its own, over mutual TLS"
        )
        try:
            for name in ("server", *laid.sites):
                crew.start(name, command(kits / name, name), laid.home / f"{name}.log", {HOME: str(laid.home)})

            def gone() -> str | None:
                return next((f"the process of {n} has ended; see {laid.home / n}.log" for n in crew.ended()), None)

            until = time.monotonic() + START
            with session(kits / "lead", until, gone) as opened:
                here = wait_for_sites(opened, laid.sites, until, gone)
                if missing := sorted(set(laid.sites) - here):
                    raise MedflError(
                        f"{missing[0]} did not connect within {START:g} s; see {laid.home / missing[0]}.log"
                    )
                yield RunningEngine(Job(opened, write_job(folder, laid.run, laid.timeout, len(laid.sites)), gone))
        finally:
            crew.end()
            for name in ("server", *laid.sites):  # what the processes of the job wrote; the rest of a kit goes
                for log in (kits / name).glob("*/log.txt"):
                    with replacing(laid.home / f"{name}-job.log") as staged:
                        shutil.copyfile(log, staged)
