"""A worker: a process that holds the sites of a run and answers for one of them at a time."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from medfl.federation.transport import failure_reason
from medfl.messages import Failure, Reply, Request
from medfl.pipeline.workers.shared_blocks import Block, put_together, receive, send, taken_apart
from medfl.site.site import Site
from medfl.site.state import SiteMemory

BuildSites = Callable[[int], Mapping[str, Site]]
"""What gives a worker, by its number, its sites: those it was born with, or those it makes anew of the pipeline."""
PATIENCE = 0.2
"""Seconds between two looks at whether the run is still there."""
STOP = b""
READY = b"ready"
log = logging.getLogger(__name__)


def work(
    line: Connection, others: Sequence[Connection], run: int, threads: int, number: int, build: BuildSites
) -> None:
    """Answer what comes over the line until the run ends it or has gone.

    Args:
        line: to the run.
        others: ends that this process was born with and has no use for.
        run: the run's process.
        threads: of PyTorch.
        number: of this worker, from 0.
        build: gives the sites.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the run to end its workers
    threading.Thread(target=_leave_with, args=(run,), daemon=True).start()
    for other in others:
        other.close()
    torch.set_num_threads(threads)
    try:
        sites = build(number)
    except Exception as error:  # the site that it was to answer for fails, and another worker is started
        log.warning("a worker could not begin: %s", failure_reason(error))
        os._exit(1)
    with contextlib.suppress(EOFError, OSError):  # the run has gone
        _Worker(line, sites).serve()


def _leave_with(run: int) -> None:
    """End this process when the run has gone: what it is at is asked for by nobody."""
    while os.getppid() == run:
        time.sleep(PATIENCE)
    os._exit(1)


class _Worker:
    def __init__(self, line: Connection, sites: Mapping[str, Site]) -> None:
        self.line = line
        self.sites = sites
        self.held: dict[int, list[Tensor]] = {}

    def serve(self) -> None:
        """Say that there are sites, and answer one message after another."""
        send(self.line, READY)
        while True:
            data, numbers = self._message()
            if data == STOP:
                return
            site, memory, request = put_together(data, [self.held[number][0] for number in numbers])
            value, tensors = taken_apart(self._answer(site, memory, request))
            send(self.line, value, Block(tensors) if tensors else None)
            for number in self.held.keys() - set(numbers):  # sites are sent what others were just sent
                del self.held[number]

    def _message(self) -> tuple[bytes, list[int]]:
        """The bytes of a message and the numbers of its vectors, those that are new taken in."""
        (data, numbers, fresh), _ = receive(self.line)
        for number in fresh:
            _, self.held[number] = receive(self.line)
        return data, numbers

    def _answer(self, name: str, memory: SiteMemory | None, request: Request) -> tuple[Any, SiteMemory | None]:
        """The site's answer, and what it carries from now on where that is another."""
        site = self.sites[name]
        if memory is not None:
            site.restore(memory)
        before = site.memory()
        answer: Reply | Failure
        try:
            answer = site.handle(request)
        except Exception as error:
            answer = Failure(name, request.round, failure_reason(error))
        after = site.memory()
        return answer, None if after is before else after
