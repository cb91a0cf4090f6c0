"""The transport over workers: sites answer side by side, and their answers come in the order of the sites.

Whichever worker is free takes the next site; what a site carries from round to round goes with it where the worker does
not have it, and comes back with the answer. So the sites of this process carry what they would have carried had they
answered themselves, and a worker that dies costs the answer that it was at, and nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

import torch
from torch import Tensor

from medfl.config.training_config import TIMEOUT
from medfl.errors import MedflError
from medfl.messages import Failure, Reply, Request, StainRequest
from medfl.pipeline.workers.shared_blocks import Block, put_together, receive, send, taken_apart
from medfl.pipeline.workers.site_worker import READY, STOP, BuildSites, work
from medfl.site.site import Site
from medfl.site.state import PendingState, SiteMemory

AHEAD = 2
"""So many answers a worker may wait for their turn: each is as large as the model."""
KEPT = 4
"""So many vectors of messages are kept in shared memory for the next site."""
GRACE = 5.0  # seconds
REPLACED = "another worker takes its place in the next round"


@dataclass(eq=False)
class _Process:
    """A worker as the run sees it.

    Attributes:
        process, line: itself, and the line to it.
        number: 0, 1, ...; whoever takes its place has it too.
        ready: whether it has its sites.
        due: when it must have answered, by the monotonic clock.
        has: numbers of the vectors that it has.
        carries: site -> the memory that it has of it.
        site: what it is at.
    """

    process: BaseProcess
    line: Connection
    number: int
    ready: bool = False
    due: float = 0.0
    has: set[int] = field(default_factory=set)
    carries: dict[str, SiteMemory] = field(default_factory=dict)
    site: str = ""


class WorkerTransport:
    """Sites that answer in workers.

    Args:
        sites: of this process; each carries what its answers left.
        count: workers.
        threads: of PyTorch in each.
        rebuild: makes the sites anew in a process that is not born with them, the worker of that number.
        inherit: whether the first workers may be born with the sites of this process (`start` says when).
        timeout: seconds that a worker has for one message; one that has none of its sites yet has `TIMEOUT` at least.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        count: int,
        threads: int,
        rebuild: BuildSites,
        inherit: bool = True,
        timeout: float = TIMEOUT,
    ) -> None:
        self.sites = sites
        self.count, self.threads = count, threads
        self.rebuild, self.inherit = rebuild, inherit
        self.timeout = timeout
        self.processes: list[_Process] = []
        self._vectors: dict[int, tuple[Tensor, int, Block]] = {}  # by what the tensor is
        self._numbers = 0
        self._close = weakref.finalize(self, _end, self.processes)

    def start(self) -> None:
        """Start the workers that are missing.

        The first are copies of this process, which have its sites at once and share its memory. That is sound only
        while no other thread of it holds a lock: so it is done before a run starts its threads, and not where a GPU or
        several threads of a library are in use. Later ones, in the place of workers that died, begin anew.

        Raises:
            MedflError: a new process cannot be given what a program hands to the run, and no worker is left.
        """
        while len(self.processes) < self.count:
            context: Any = multiprocessing.get_context("fork" if self.inherit else "spawn")
            here, there = context.Pipe()
            others = [other.line for other in self.processes] + [here] if self.inherit else []
            build = partial(_inherited, self.sites) if self.inherit else self.rebuild
            number = min(set(range(self.count)) - {worker.number for worker in self.processes})
            process = context.Process(
                target=work,
                args=(there, others, os.getpid(), self.threads, number, build),
                name="medfl-worker",
                daemon=True,
            )
            try:
                process.start()
            except (pickle.PicklingError, AttributeError, TypeError):
                here.close()
                there.close()
                if self.processes:  # those that are left do the work
                    return
                raise MedflError(
                    "what the program hands to the run (a network, a loss, patches) cannot be given to another "
                    "process; define it at the top of a module, or set `training.workers: 1`"
                ) from None
            there.close()
            self.processes.append(_Process(process, here, number))
        self.inherit = False

    def close(self) -> None:
        """End the workers."""
        self._close()

    def call(self, sites: Sequence[str], request: Callable[[str], Request]) -> Iterator[Reply | Failure]:
        """See Transport.call."""
        self.start()
        waiting, answers, at = list(sites), dict[str, Reply | Failure](), 0
        asked: dict[str, Request] = {}
        try:
            while at < len(sites):
                due = sites[at : at + AHEAD * self.count]
                self._occupy([name for name in waiting if name in due], waiting, asked, request)
                if sites[at] in answers:
                    at += 1
                    yield answers.pop(sites[at - 1])
                else:
                    answers |= self._answers(asked)
        finally:
            for worker in [each for each in self.processes if each.site]:  # nobody waits for what they are at
                worker.process.kill()
                self._end_one(worker)

    def _occupy(
        self, due: list[str], waiting: list[str], asked: dict[str, Request], request: Callable[[str], Request]
    ) -> None:
        """Give each idle worker a site: one that it had before, or else the next."""
        idle = [worker for worker in self.processes if not worker.site]
        if not self.processes and due:  # all of them have died in this round
            self.start()
            idle = list(self.processes)
        for worker in idle:
            if not due:
                return
            name = next((name for name in due if name in worker.carries), due[0])
            due.remove(name)
            waiting.remove(name)
            asked[name] = request(name)
            worker.site = name
            self._ask(worker, asked[name])

    def _ask(self, worker: _Process, request: Request) -> None:
        worker.due = time.monotonic() + self._limit(worker)
        memory: SiteMemory | None = self.sites[worker.site].memory()
        if memory is not None and worker.carries.get(worker.site) is memory:
            memory = None
        data, tensors = taken_apart((worker.site, memory, request))
        of_all = {id(vector) for vector in request.vectors().values()}
        blocks = [self._block(tensor, keep=id(tensor) in of_all) for tensor in tensors]
        fresh = [(number, block) for number, block in blocks if number not in worker.has]
        numbers = [number for number, _ in blocks]
        try:
            send(worker.line, (data, numbers, [number for number, _ in fresh]))
            for _, block in fresh:
                send(worker.line, None, block)
        except OSError:  # it has died: so its line says when it is read
            return
        worker.has = set(numbers)

    def _block(self, tensor: Tensor, keep: bool) -> tuple[int, Block]:
        """A vector in shared memory, and its number; one to keep is put there once however many sites are sent it."""
        shared = self._vectors.pop(id(tensor), None)
        if shared is None:
            self._numbers += 1
            shared = tensor, self._numbers, Block([tensor])
        if keep:
            self._vectors[id(tensor)] = shared  # the last one used is the last to go
            for key in list(self._vectors)[:-KEPT]:
                del self._vectors[key]
        return shared[1:]

    def _answers(self, asked: Mapping[str, Request]) -> dict[str, Reply | Failure]:
        """Those of the workers that are done first, and failures of those that have died or taken too long."""
        busy = {worker.line: worker for worker in self.processes if worker.site}
        answers: dict[str, Reply | Failure] = {}
        first = min(worker.due for worker in busy.values())
        for line in wait(list(busy), max(0.0, first - time.monotonic())):
            worker = busy.pop(cast(Connection, line))
            name = worker.site
            try:
                value, tensors = receive(worker.line)
            except (EOFError, OSError):
                answers[name] = Failure(name, asked[name].round, self._end_one(worker))
                continue
            if value == READY:
                worker.ready, worker.due = True, time.monotonic() + self.timeout
            else:
                answers[name] = self._taken(worker, asked[name], value, tensors)
                worker.site = ""
        for worker in [worker for worker in busy.values() if worker.due <= time.monotonic()]:
            name, limit = worker.site, self._limit(worker)
            worker.process.kill()
            self._end_one(worker)
            answers[name] = Failure(name, asked[name].round, f"no answer of its worker within {limit:g} s; {REPLACED}")
        return answers

    def _limit(self, worker: _Process) -> float:
        """Seconds that it has for the message that it is at."""
        return self.timeout if worker.ready else max(self.timeout, TIMEOUT)

    def _taken(self, worker: _Process, request: Request, data: bytes, tensors: list[Tensor]) -> Reply | Failure:
        """An answer; the site of this process carries what it left."""
        answer, memory = cast("tuple[Reply | Failure, SiteMemory | None]", put_together(data, tensors))
        site = self.sites[worker.site]
        if isinstance(answer, Reply) and not isinstance(request, StainRequest):
            site.take_stains(request)  # which the worker has made
        if memory is not None:
            site.restore(_own(memory))
        for other in self.processes:
            other.carries.pop(worker.site, None)
        worker.carries[worker.site] = site.memory()
        return answer

    def _end_one(self, worker: _Process) -> str:
        """Part with a worker; what is said of the site that it was at."""
        worker.process.join(GRACE)
        code = worker.process.exitcode
        self.processes.remove(worker)
        _end([worker])
        ended = "" if code is None else f" with signal {-code}" if code < 0 else f" with exit code {code}"
        why = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"its worker process ended{ended}{why}; {REPLACED}"


def _inherited(sites: Mapping[str, Site], number: int) -> dict[str, Site]:
    """The sites with which a worker is born, whatever its number."""
    return dict(sites)


def _own(memory: SiteMemory) -> SiteMemory:
    """A memory whose tensors are of this process: it may be kept for long, and by many sites."""
    copies: dict[int, Tensor] = {}

    def own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: copies.setdefault(id(tensor), tensor.clone()) for name, tensor in tensors.items()}

    pending = None if memory.pending is None else PendingState(memory.pending.round, own(memory.pending.state))
    return replace(memory, state=own(memory.state), pending=pending)


def _end(processes: list[_Process]) -> None:
    """End workers: those that are idle by a word, others at once."""
    for worker in processes:
        try:
            if worker.site:
                worker.process.kill()
            else:
                send(worker.line, (STOP, [], []))
        except OSError:
            pass
    for worker in processes:
        worker.process.join(GRACE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.line.close()
    processes.clear()


def can_inherit(device: torch.device, threads: int) -> bool:
    """Whether a worker may be a copy of this process: on Linux, without a GPU, with one thread."""
    return sys.platform == "linux" and threads == 1 and device.type == "cpu" and not torch.cuda.is_available()
