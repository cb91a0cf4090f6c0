"""The processes of a run on this machine: started together, and gone when the run has ended, however it ended."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType

import psutil

from medfl.data.atomic_file import open_private

MARK = "MEDFL_CREW"
GRACE = 5.0  # seconds between the request to end and the end


@contextmanager
def stoppable() -> Iterator[None]:
    """Let a request to end this process (SIGTERM, SIGHUP) end it as Ctrl-C does, so that nothing is left running."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def kit_mark(kit: Path) -> str:
    """The mark of the processes that take part with a kit."""
    return hashlib.sha256(str(kit.resolve()).encode()).hexdigest()


class Crew:
    """Starts processes that carry a mark in their environment, and ends all that carry it, whoever started them.

    Args:
        mark: the run's identity.
        cores: threads of numerical libraries in each process; None leaves them as they are.
    """

    def __init__(self, mark: str, cores: int | None = None) -> None:
        self.mark = mark
        self.cores = cores
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Crew:
        self.end()  # what an earlier part of the run may have left, if it was killed outright
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def start(self, name: str, command: Sequence[str], log: Path, extra: Mapping[str, str] | None = None) -> None:
        """Start one process in a session of its own; what it prints goes into `log`."""
        environment = os.environ | {MARK: self.mark} | dict(extra or {})
        if self.cores:
            environment |= {"OMP_NUM_THREADS": str(self.cores)}
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab", opener=open_private) as stream:
            self.started[name] = subprocess.Popen(
                list(command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> dict[str, int]:
        """Name -> exit code of the processes started here that have ended."""
        return {name: code for name, process in self.started.items() if (code := process.poll()) is not None}

    def marked(self) -> list[psutil.Process]:
        """Every live process that carries the mark, but this one."""
        processes = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid != os.getpid() and process.environ().get(MARK) == self.mark:
                    processes.append(process)
        return processes

    def end(self) -> None:
        """End all marked processes and wait until they are gone."""
        for ask in (psutil.Process.terminate, psutil.Process.kill):
            processes = self.marked()
            for process in processes:
                with suppress(psutil.Error):
                    ask(process)
            psutil.wait_procs(processes, timeout=GRACE)
        for child in self.started.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=GRACE)
